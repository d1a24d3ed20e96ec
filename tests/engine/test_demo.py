"""The demo over HTTP: what it computes is what the models give."""

import io
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import yaml
from PIL import Image

import engine
from engine.config import ConfigError, EvaluateSection
from engine.demo.config import DemoConfig
from engine.demo.models import open_models
from engine.demo.results import Results
from engine.demo.run import opened
from engine.demo.turn import Busy, Turn
from engine.inference import LoadedBlip
from engine.report.embedding import hash_source
from tests.demo_server import PATIENCE, Client, serving, write_pictures, write_weights
from tests.shards import picture

pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and a folder in which not everything is a picture."""
    folder = tmp_path_factory.mktemp("demo")
    write_weights(folder)
    write_pictures(folder / "set", 20)
    (folder / "set" / "page.png").write_text("<html>no picture</html>")
    return folder


@pytest.fixture(scope="module")
def client(world: Path) -> Iterator[Client]:
    models = [str(world / "both"), str(world / "vqa")]
    config = DemoConfig(model=models, folder=str(world / "set"), port=0, device="cpu")
    with serving(opened(config)) as client:
        yield client


@pytest.fixture(scope="module")
def blip(world: Path) -> LoadedBlip:
    return engine.load(world / "both", device="cpu")


def test_the_page_carries_all_it_needs(client: Client) -> None:
    answer = client.ask("GET", "/")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    page, policy = answer.content.decode(), answer.headers["Content-Security-Policy"]
    for kind in ("style", "script"):
        (own,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        assert f"{kind}-src {hash_source(own)};" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert not re.findall(r"(?:src|href|action)=\"(?!data:,\")|https?:|@import|url\(", page)
    assert not re.findall(r"\son\w+=|\sstyle=", page)
    for name in ("captions", "match", "answer", "search"):
        assert f'id="{name}-card"' in page
    assert "20 pictures, 1 skipped (1 wrong_format)" in page


def test_captions_are_the_models(client: Client, blip: LoadedBlip) -> None:
    found = client.post("/captions", picture(1)).json
    assert found["best"] == blip.caption(picture(1))[0]
    assert len(found["samples"]) == 3
    assert found["samples"] != client.post("/captions", picture(1)).json["samples"]


def test_captions_begin_as_they_were_learnt(client: Client, world: Path, blip: LoadedBlip) -> None:
    """A visitor's prompt comes first, then the command's, then that of the run's evaluation."""
    plain, short = {"prompt": "", "min_length": 2, "max_length": 12}, {"prompt": "the red"}
    expected = [blip.caption(picture(1), **how)[0] for how in (plain, plain | short)]
    assert client.post("/captions?prompt=", picture(1)).json["best"] != expected[0]
    run = world / "run"
    shutil.copytree(world / "both", run)
    settings = {"evaluate": plain | {"unknown": 1}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    config = DemoConfig(model=str(run), device="cpu", samples=0)
    for given, best in [(config, expected[0]), (replace(config, prompt="the red"), expected[1])]:
        models = open_models(given)
        assert Results(given, models, None).captions(picture(1))["best"] == best
    for text in ("just words", "- 1", "evaluate: 1", "evaluate: {prompt: 1}", "\0", "a: b: c"):
        (run / "config.yaml").write_text(text)
        assert open_models(config).style == EvaluateSection()


def test_a_prompt_that_fills_the_caption_is_one_line(client: Client) -> None:
    answer = client.post(f"/captions?prompt={'a%20' * 60}", picture(1))
    assert answer.status == 400
    assert "max_length is 20" in answer.error


def test_scores_and_maps_are_the_models(client: Client, blip: LoadedBlip) -> None:
    text = "A <b>red</b> café, 🍎 & ‮dog"
    found = client.post(f"/match?text={quote(text)}", picture(1)).json
    assert found["itm"] == pytest.approx(blip.match(picture(1), text).item(), abs=1e-5)
    cosine = (blip.embed_images(picture(1)) * blip.embed_texts(text)).sum().item()
    assert found["itc"] == pytest.approx(cosine, abs=1e-5)
    expected = blip.attention_map(picture(1), text)
    assert [one["word"] for one in found["words"]] == expected.words
    assert expected.words[:3] == ["a", "<b>red</b>", "café,"]
    maps = np.array([one["map"] for one in found["words"]])
    np.testing.assert_allclose(maps, expected.maps, atol=1e-5)


def test_answers_are_the_models(client: Client, world: Path) -> None:
    asked = client.post("/answer?text=what%20is%20it", picture(1)).json
    vqa = engine.load(world / "vqa", device="cpu")
    assert asked == {"answer": vqa.answer(picture(1), "what is it")[0]}


def test_the_folder_is_searched_by_text(client: Client, world: Path, blip: LoadedBlip) -> None:
    paths = sorted((world / "set").glob("[0-9]*.png"))
    scores = (blip.embed_images(paths) @ blip.embed_texts("a red square").T)[:, 0]
    answer = client.post("/search?text=a%20red%20square").json
    assert answer["of"] == 20
    found = answer["found"]
    assert len(found) == 12
    best = scores.topk(12)
    assert [one["score"] for one in found] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert found[0]["name"] == paths[best.indices[0]].name
    assert all(one["thumbnail"].startswith("data:image/webp;base64,") for one in found)
    answer = client.post(f"/picture?number={found[0]['number']}")
    assert answer.headers["Content-Type"] == "image/webp"
    shown = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"), float)
    kept = np.asarray(Image.open(paths[best.indices[0]]).convert("RGB"), float)
    assert np.abs(shown - kept).mean() < 10


def test_a_picture_that_is_gone(client: Client, world: Path) -> None:
    path = world / "set" / "07.png"
    content = path.read_bytes()
    try:
        path.unlink()
        found = client.post("/search?text=a").json["found"]
        thumbnails = {one["name"]: one["thumbnail"] for one in found}
        assert thumbnails.pop("07.png", None) is None
        assert all(thumbnails.values())
        assert "gone" in client.post("/picture?number=7").error
    finally:
        path.write_bytes(content)


def test_what_the_models_cannot_do_is_not_offered(world: Path) -> None:
    config = DemoConfig(model=str(world / "captioner"), port=0, device="cpu", samples=0)
    with serving(opened(config)) as client:
        page = client.ask("GET", "/").content.decode()
        assert 'id="captions-card"' in page
        for name in ("match", "answer", "search"):
            assert f'id="{name}-card"' not in page
            assert client.post(f"/{name}?text=a", picture(1)).status == 404
        assert client.post("/captions", picture(1)).json["samples"] == []
    with pytest.raises(ConfigError, match="none of the models can search"):
        opened(replace(config, folder=str(world / "set")))


def test_the_end_waits_for_the_one_in_work_and_lets_nobody_in() -> None:
    turn, inside, leave = Turn(1), threading.Event(), threading.Event()
    ended: list[float] = []

    def work() -> None:
        with turn.taken():
            inside.set()
            leave.wait(PATIENCE)

    worker = threading.Thread(target=work)
    worker.start()
    assert inside.wait(PATIENCE)
    ending = threading.Thread(target=lambda: (turn.end(PATIENCE), ended.append(1)))
    ending.start()
    while not turn._ended:
        time.sleep(0.01)
    assert not ended
    with pytest.raises(Busy), turn.taken():
        pass
    leave.set()
    ending.join()
    worker.join()
    assert ended
