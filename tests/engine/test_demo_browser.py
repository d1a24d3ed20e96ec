"""The demo in a real browser: files chosen, dropped, pasted, keys alone, texts that would act."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.demo.config import DemoConfig
from engine.demo.run import opened
from engine.demo.server import DemoServer
from tests.browser import PATIENCE, Tab, needs_chromium, open_tab
from tests.demo_server import Client, serving, write_pictures, write_weights
from tests.payloads import MARK, payloads
from tests.shards import picture

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.slow, needs_chromium]

SHOWN = "!document.getElementById('{}').hidden && !document.querySelector('[aria-busy]')"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_weights(folder)
    write_pictures(folder / "set", 4)
    # A name that would act, as far as a file can be called so.
    (folder / "set" / f"<img src=x onerror={MARK}>.png").write_bytes(picture(9))
    (folder / "page.png").write_text("<!doctype html><script>alert(1)</script>")
    return folder


@pytest.fixture(scope="module")
def client(world: Path) -> Iterator[Client]:
    models = [str(world / "both"), str(world / "vqa")]
    config = DemoConfig(
        model=models,
        folder=str(world / "set"),
        port=0,
        device="cpu",
        max_upload_bytes=100_000,
        # A browser opens connections ahead and may use one the moment it is given up.
        receive_seconds=PATIENCE,
    )
    with serving(opened(config)) as client:
        yield client


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with open_tab(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab, client: Client) -> Tab:
    """The page, freshly loaded."""
    browser.look(1200, 900)
    browser.go("about:blank")
    browser.go(client.server.url)
    browser.complaints.clear()
    return browser


def text_of(tab: Tab, name: str) -> str:
    """What an element says."""
    return tab.value(f"document.getElementById({json.dumps(name)}).innerText")


def submit(tab: Tab, name: str, text: str) -> None:
    """Write into a card's field and press Enter."""
    field = f"document.getElementById('{name}-text')"
    tab.value(f"{field}.value = ''")
    # What is shown meanwhile moves the field away from under the mouse.
    while not tab.value(f"document.activeElement === {field}"):
        tab.wait("!document.querySelector('[aria-busy]')")
        tab.click(f"#{name}-text")
    tab.type(text)
    tab.key("Enter")


def given(tab: Tab, event: str, holder: str, content: bytes) -> None:
    """A file that is dropped or pasted."""
    tab.value(
        f"""(() => {{
          const given = new DataTransfer();
          const bytes = Uint8Array.from({list(content)});
          given.items.add(new File([bytes], "given.png", {{type: "image/png"}}));
          const facts = {{bubbles: true, cancelable: true, {holder}: given}};
          const event = new {event}Event("{"drop" if event == "Drag" else "paste"}", facts);
          document.body.dispatchEvent(event);
        }})()"""
    )


def test_a_picture_is_captioned_matched_asked_about_and_found(
    tab: Tab, world: Path, client: Client
) -> None:
    submit(tab, "match", "a red square")
    assert text_of(tab, "match-state") == "Choose a picture first."
    tab.value("document.getElementById('match-text').value = ''")
    tab.choose("#file", world / "set" / "00.png")
    tab.wait(SHOWN.format("captions"))
    best = client.post("/captions", picture(0)).json["best"]
    assert text_of(tab, "best") == best
    assert tab.value("document.querySelectorAll('#samples li').length") == 3
    submit(tab, "match", "a red square")
    tab.wait(SHOWN.format("match"))
    expected = client.post("/match?text=a%20red%20square", picture(0)).json
    assert text_of(tab, "itm") == f"{100 * expected['itm']:.1f} %"
    assert text_of(tab, "itc") == f"{expected['itc']:.3f}".replace("-", "−")
    words = "[...document.querySelectorAll('#words b')].map((b) => b.innerText)"
    assert tab.value(words) == ["all words", "a", "red", "square"]
    shares = "[...document.querySelectorAll('#words span')].map((s) => parseInt(s.innerText))"
    assert 98 <= sum(tab.value(shares)[1:]) <= 102
    submit(tab, "answer", "what is it")
    tab.wait(SHOWN.format("answer"))
    asked = client.post("/answer?text=what%20is%20it", picture(0)).json["answer"]
    assert text_of(tab, "answer") == (asked or "(no answer)")
    submit(tab, "search", "a red square")
    tab.wait("document.querySelectorAll('#found img').length === 5")
    tab.wait("document.querySelector('#found img').naturalWidth === 40")
    assert "nearest 5 of 5" in text_of(tab, "search-state")
    tab.value("document.getElementById('captions').hidden = true")
    tab.click("#found li:nth-child(2) button")
    tab.wait(SHOWN.format("captions"))
    name = tab.value("document.querySelectorAll('#found button')[1].title")
    assert tab.value("document.getElementById('picture').alt") == name
    # The text was matched with the new picture too.
    tab.wait(SHOWN.format("match"))
    assert tab.complaints == []


def test_the_map_lies_over_the_picture_where_the_model_looks(
    tab: Tab, world: Path, client: Client
) -> None:
    """Pixels of the canvas: the hottest cell is where the model's map has its maximum."""
    tab.choose("#file", world / "set" / "00.png")
    submit(tab, "match", "a red square")
    tab.wait(SHOWN.format("match"))
    # The picture has come to its size.
    tab.wait("document.getElementById('stage').style.aspectRatio")
    found = client.post("/match?text=a%20red%20square", picture(0)).json["words"]
    hottest = """(() => {
      const heat = document.getElementById("heat");
      const cell = heat.width / 4, context = heat.getContext("2d");
      const green = (n) => context.getImageData(
        (n % 4 + .5) * cell, (Math.floor(n / 4) + .5) * cell, 1, 1).data[1];
      const all = [...Array(16).keys()];
      return all.reduce((best, n) => green(n) > green(best) ? n : best);
    })()"""
    for number, word in enumerate(found, 2):
        tab.click(f"#words li:nth-child({number}) button")
        flat = [share for row in word["map"] for share in row]
        assert tab.value(hottest) == flat.index(max(flat))
    # It covers the picture exactly, and the same word again takes it off.
    box = "JSON.stringify(document.getElementById('{}').getBoundingClientRect())"
    assert tab.value(box.format("heat")) == tab.value(box.format("picture"))
    tab.click(f"#words li:nth-child({len(found) + 1}) button")
    assert tab.value("document.getElementById('heat').hidden")
    assert not tab.value("document.querySelector('#words [aria-pressed=true]')")


def test_it_is_used_with_keys_alone(tab: Tab, world: Path) -> None:
    seen = []
    for _ in range(12):
        tab.key("Tab")
        at = "document.activeElement"
        seen.append(tab.value(f"{at}.id || {at}.innerText"))
    texts = ["captions-text", "Caption", "match-text", "Match", "answer-text", "Ask"]
    fields = ["file", *texts, "search-text", "Search"]
    assert [one for one in seen if one in fields][:9] == fields
    # Where the focus is can be seen, also on the area to drop in.
    tab.value("document.getElementById('file').focus()")
    tab.key("Tab")
    outline = "getComputedStyle(document.getElementById('{}')).outlineStyle"
    assert tab.value(outline.format("captions-text")) == "solid"
    tab.choose("#file", world / "set" / "00.png")
    submit(tab, "match", "a red square")
    tab.wait(SHOWN.format("match"))
    tab.value("document.querySelectorAll('#words button')[1].focus()")
    tab.key(" ")
    pressed = "[...document.querySelectorAll('#words button')].map((b) => b.ariaPressed).join()"
    assert tab.value(pressed) == "false,true,false,false"


@pytest.mark.parametrize(
    ("event", "holder"), [("Drag", "dataTransfer"), ("Clipboard", "clipboardData")]
)
def test_a_picture_is_dropped_or_pasted(tab: Tab, event: str, holder: str) -> None:
    given(tab, event, holder, picture(2))
    tab.wait(SHOWN.format("captions"))
    tab.wait("document.getElementById('picture').naturalWidth === 40")


def test_texts_and_names_are_only_text(tab: Tab, world: Path) -> None:
    tab.choose("#file", world / "set" / f"<img src=x onerror={MARK}>.png")
    tab.wait(SHOWN.format("captions"))
    for text in payloads("http://127.0.0.1:9")[:10]:
        submit(tab, "match", text[:900])
        tab.wait(SHOWN.format("match"))
    assert "script" in text_of(tab, "words")
    submit(tab, "search", "<img src=x>")
    tab.wait("document.querySelectorAll('#found img').length === 5")
    assert f"<img src=x onerror={MARK}>.png" in text_of(tab, "found")
    assert tab.value("document.documentElement.dataset.acted") is None
    assert tab.value("document.querySelectorAll('script').length") == 1
    assert not tab.value("document.querySelector('iframe, #words img, #words script, #words svg')")
    assert tab.complaints == []


def test_what_goes_wrong_is_one_line(tab: Tab, world: Path, tmp_path: Path) -> None:
    tab.choose("#file", world / "page.png")
    tab.wait("document.getElementById('captions-state').classList.contains('error')")
    assert text_of(tab, "captions-state") == "This is no JPEG, PNG or WebP picture."
    (tmp_path / "large.png").write_bytes(bytes(100_001))
    tab.choose("#file", tmp_path / "large.png")
    tab.wait("document.getElementById('picture-state').innerText")
    assert text_of(tab, "picture-state") == "This picture is larger than 0.1 MB."
    tab.choose("#file", world / "set" / "00.png")
    tab.wait(SHOWN.format("captions"))
    assert text_of(tab, "picture-state") == text_of(tab, "captions-state") == ""
    submit(tab, "match", " .! ")
    tab.wait("document.getElementById('match-state').innerText.startsWith('A text is not usable')")
    tab.value("document.body.dataset.token = 'of yesterday'")
    submit(tab, "search", "a dog")
    tab.wait("document.getElementById('search-state').innerText.includes('load it again')")


def test_a_demo_that_has_ended_is_told(tab: Tab, client: Client) -> None:
    server = DemoServer(DemoConfig(model="unused", port=0, receive_seconds=5.0))
    server.open(client.server.results, client.server.page)
    with serving(server) as other:
        tab.go(other.server.url)
    told, end = "", time.monotonic() + PATIENCE
    # A connection that the browser opened ahead is answered until its time is over.
    while told != "The demo does not answer. Is it still running?" and time.monotonic() < end:
        submit(tab, "search", "a dog")
        tab.wait("!document.querySelector('[aria-busy]')")
        told = text_of(tab, "search-state")
    assert told == "The demo does not answer. Is it still running?"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 420, 820, 1200])
def test_it_fits_every_screen(tab: Tab, world: Path, width: int, dark: bool) -> None:
    tab.look(width, 900, dark=dark)
    tab.choose("#file", world / "set" / "00.png")
    submit(tab, "match", "a red square " + "of unbelievable length" * 3 + "x" * 80)
    submit(tab, "search", "a red square")
    tab.wait(SHOWN.format("match"))
    tab.wait("document.querySelectorAll('#found img').length === 5")
    assert tab.value("document.documentElement.scrollWidth <= innerWidth")
    paper = tab.value("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 20, 19)" if dark else "rgb(250, 249, 246)")
