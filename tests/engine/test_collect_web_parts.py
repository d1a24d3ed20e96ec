"""The parts of a web collection, each against its definition."""

import io
import random
import threading
from collections import Counter
from email.message import Message

import emoji
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.collect.web.census import CaptionCounts
from engine.collect.web.language import LATIN, speaks
from engine.collect.web.look import COLOURS, Look, alike, look_of
from engine.collect.web.near import NearIndex
from engine.collect.web.opt_out import opts_out
from engine.collect.web.refusal import Refused
from engine.collect.web.request import retry_after
from engine.collect.web.schedule import Schedule
from engine.collect.web.url import parse_url
from engine.collect.web.visit import Job
from engine.remote.addresses import is_public
from tests.hostile_answers import pattern

PUBLIC = ("8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001:81b::200e")
INSIDE = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.9.9.9",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.1.1",
    "192.0.2.1",
    "192.0.0.192",
    "2002:c000:c0::1",
    "168.63.129.16",
    "198.18.0.1",
    "203.0.113.9",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001:0:1::1",
    "2001:db8::1",
    "3fff::1",
    "fc00::1",
    "fd00::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "100::1",
    "5f00::1",
    "localhost",
    "1",
]


def test_public_addresses() -> None:
    assert [address for address in PUBLIC if not is_public(address)] == []
    assert [address for address in INSIDE if is_public(address)] == []
    assert is_public("64:ff9b::808:808")
    assert is_public("2002:808:808::1")


@pytest.mark.parametrize(
    ("given_url", "seen"),
    [
        ("HTTP://Example.ORG:80/a b?q=ü#part", "http://example.org/a%20b?q=%C3%BC"),
        ("https://example.org", "https://example.org/"),
        ("https://example.org./x%20y", "https://example.org/x%20y"),
        ("http://bücher.example:8080/", "http://xn--bcher-kva.example:8080/"),
        ("http://[2606:4700::1111]:8080/a", "http://[2606:4700::1111]:8080/a"),
    ],
)
def test_urls_have_one_spelling(given_url: str, seen: str) -> None:
    assert str(parse_url(given_url)) == seen


@settings(max_examples=100)
@given(st.text(max_size=60), st.sampled_from(["", "http://", "https://a.b", "http://[", "//"]))
def test_no_url_is_more_than_one_line_of_a_request(text: str, start: str) -> None:
    try:
        url = parse_url(start + text)
    except Refused as refused:
        assert refused.reason in ("bad_url", "scheme")
        return
    for part in (url.host, url.path, url.authority):
        assert part.isascii()
        assert part.isprintable()
        assert " " not in part


@pytest.mark.parametrize(
    ("value", "out"),
    [("NOAI", True), ("all", False), ("otherbot: noindex", False), ("*: noindex", True)],
)
def test_opt_outs(value: str, out: bool) -> None:
    headers = Message()
    headers["x-robots-tag"] = "nofollow"
    headers["X-Robots-Tag"] = value
    assert opts_out(headers, "blip-engine") == out


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("-7", None), ("soon", None), ("9" * 99, 999999999.0), ("", None)]
    + [("Fri, 31 Dec 1999 23:59:59 GMT", 0.0)],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    headers = Message()
    headers["Retry-After"] = value
    assert retry_after(headers) == seconds


def test_looks_are_found_like_the_definition_says() -> None:
    rng = random.Random(0)
    looks: list[Look] = []
    for number in range(9000):
        if number % 3 and looks:
            old = rng.choice(looks)
            flips = sum(1 << bit for bit in rng.sample(range(64), rng.randrange(9)))
            spread = rng.choice((3, 13, 14))
            colours = bytes(min(255, value + rng.randrange(spread)) for value in old.colours)
            looks.append(Look(old.hash ^ flips, colours))
        else:
            looks.append(Look(rng.getrandbits(64), rng.randbytes(COLOURS)))
    index = NearIndex(6, 12)
    for number, look in enumerate(looks[:8000]):
        index.add(look, number)
    assert index._sorted > 4000
    found = 0
    for look in looks[8000:8100]:
        near = [n for n, other in enumerate(looks[:8000]) if alike(look, other, 6, 12)]
        assert index.find(look) == (min(near) if near else None)
        found += bool(near)
    assert 10 < found < 90


def test_copies_look_alike_and_others_do_not() -> None:
    def look(content: bytes) -> Look:
        return look_of(Image.open(io.BytesIO(content)).convert("RGB"))

    looks = [look(pattern(number)) for number in range(30)]
    for number, one in enumerate(looks):
        for side, form in ((128, "PNG"), (200, "JPEG"), (96, "WEBP")):
            assert alike(one, look(pattern(number, side, form)), 6, 12)
        assert not [n for n, other in enumerate(looks) if n != number and alike(one, other, 6, 12)]
        assert Look.from_bytes(one.to_bytes()) == one


def test_captions_are_counted_never_too_low() -> None:
    rng = random.Random(0)
    captions = [f"caption {int(rng.paretovariate(0.7)) % 3000}" for _ in range(20_000)]
    counts = CaptionCounts()
    for start in range(0, len(captions), 1000):
        counts.add(captions[start : start + 1000])
    true = Counter(captions)
    assert all(counts[caption] >= count for caption, count in true.items())
    assert sum(counts[caption] != count for caption, count in true.items()) == 0
    assert counts["never"] == 0
    assert counts["Caption  7"] == true["caption 7"]


def test_languages_are_told_where_words_speak() -> None:
    sentences = {
        "en": "a dog runs on the beach with his owner",
        "de": "ein Hund läuft mit seinem Besitzer auf dem Strand",
        "fr": "un chien court sur la plage avec son maître",
        "es": "un perro corre por la playa con su dueño",
        "it": "un cane corre sulla spiaggia con il padrone",
        "pt": "um cão corre na praia com o seu dono",
        "nl": "een hond rent met zijn baas over het strand",
        "ru": "собака бежит по пляжу",
        "ja": "浜辺を走る犬",
        "ko": "해변을 달리는 개",
        "zh": "狗在海滩上奔跑",
        "el": "σκύλος στην παραλία",
    }
    for code, text in sentences.items():
        assert speaks(text, [code]), code
        if code in LATIN:
            others = [other for other in LATIN if other != code]
            assert not any(speaks(text, [other]) for other in others), code
        else:
            assert not speaks(text, ["en", "de"]), code
    assert not speaks("12345 !!", ["en"])


def test_names_in_english_are_seldom_refused_as_others() -> None:
    """Short names without sentences: what cannot be told is let through."""
    english = [facts["en"].strip(":").replace("_", " ") for facts in emoji.EMOJI_DATA.values()]
    assert sum(speaks(name, ["en"]) for name in english) > 0.99 * len(english)


def test_a_schedule_gives_each_job_once_and_holds_the_bounds() -> None:
    schedule = Schedule(2, 0.0)
    active: Counter[str] = Counter()
    done, most = Counter(), Counter()
    lock = threading.Lock()

    def work() -> None:
        while (job := schedule.take()) is not None:
            with lock:
                active[job.url.host] += 1
                most[job.url.host] = max(most[job.url.host], active[job.url.host])
            with lock:
                active[job.url.host] -= 1
                done[job.row] += 1
            schedule.done(job.url.host)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for row in range(500):
        url = parse_url(f"http://host{row % 5}.test/{row}")
        schedule.add(Job(row, url), 0.001 if row % 50 == 0 else 0.0)
    while len(done) < 500:
        threading.Event().wait(0.01)
    schedule.close()
    for thread in threads:
        thread.join()
    assert set(done.values()) == {1}
    assert max(most.values()) <= 2
