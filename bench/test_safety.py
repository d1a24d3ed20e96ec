"""What is lost, let in or held on to when data and servers are at their worst: counts and limits.

The pictures, captions, damages and answers are the tests' own. Every count of losses stands beside
the count of what was tried.
"""

import os
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bench import hostile
from bench.accounts import (
    contents,
    crashes,
    epoch,
    one_batch,
    unaccounted,
    unaccounted_by_tarfile,
)
from bench.interleaved import Spread
from bench.memory import peak, status
from bench.plan import Plan
from bench.record import Record
from engine.collect.web.purge import purge
from engine.config import ConfigError
from engine.data.captions import clean_caption
from engine.data.images import BadSample, decode_image
from engine.data.index import index_path
from engine.data.loader import build_loader
from engine.data.open_source import open_source
from engine.data.order import Order
from engine.data.pack import verify_shards
from engine.data.shard_writer import ShardWriter
from engine.data.tokenizer import open_tokenizer
from tests.damages import damages
from tests.hostile_answers import CASES, pattern
from tests.hostile_web import hostile_server
from tests.nasty import CAPTIONS, PICTURES, fuzzed
from tests.shards import caption, picture, write_shards
from tests.web_collections import collect, pairs, samples, traces, write_list

SAMPLES = 12
FLIPS, CUTS, OTHERS = 200, 50, 10
FUZZED, REPEATS = 5000, 3
MAX_PIXELS = 25_000_000
# Samples a shard, and of the long and the short set.
PER_SHARD, LONG, SHORT = 1000, 1_000_000, 10_000
COLLECTED, PURGED = 50, 5


def test_every_sample_of_a_damaged_shard_is_read_or_named(
    plan: Plan, record: Record, tmp_path: Path
) -> None:
    whole = next(write_shards(tmp_path / "whole", SAMPLES).glob("*.tar"))
    tokenizer, stored = open_tokenizer(None), contents(open_source(str(whole)))
    (tmp_path / "broken").mkdir()
    shard = tmp_path / "broken" / whole.name
    count = lost = lost_by_tarfile = unnamed = rotten = 0
    expected: list | str = []
    for kind, damage in (("none", lambda _: None), *damages(whole, FLIPS, CUTS, OTHERS)):
        for path, copy in ((whole, shard), (index_path(whole), index_path(shard))):
            shutil.copyfile(path, copy)
        damage(shard)
        found = epoch(shard, SAMPLES, tokenizer)
        if kind == "none":
            expected = found
            assert isinstance(expected, list) and not any(slot[0] for _, slot in expected)
            continue
        count += whole.read_bytes() != (shard.read_bytes() if shard.exists() else b"")
        lost += unaccounted(expected, found, shard)
        if kind in ("flip", "cut"):
            lost_by_tarfile += unaccounted_by_tarfile(shard, stored)
            rotten, unnamed = rotten + 1, unnamed + _passes(shard)
    record.figure(f"damages_applied{plan.suffix}", count)
    record.figure(f"samples_unaccounted{plan.suffix}", lost)
    record.figure(f"samples_unaccounted_tarfile{plan.suffix}", lost_by_tarfile)
    record.figure(f"damages_named_by_verify{plan.suffix}", 1 - unnamed / rotten)


def _passes(shard: Path) -> bool:
    """Whether `pack.py verify` finds a damaged shard whole, or does not name it."""
    try:
        verify_shards([str(shard)], lambda line: None)
    except ConfigError as error:
        return str(shard) not in str(error)
    return True


def test_nasty_pictures_harm_nobody(plan: Plan, record: Record, tmp_path: Path) -> None:
    nasty, count = list(PICTURES.values()), 2 * len(PICTURES)
    tokenizer, found = open_tokenizer(None), {}
    for name in ("good", "nasty"):
        with ShardWriter(tmp_path / name, "pairs", count) as writer:
            for number in range(count):
                content = picture(number)
                if name == "nasty" and number % 2:
                    content = nasty[number // 2][0]
                writer.add(f"{number:05d}", content, "png", caption(number), {})
        shard = next((tmp_path / name).glob("*.tar"))
        found[name] = epoch(shard, count, tokenizer)
    good, met = dict(found["good"]), dict(found["nasty"])
    lost = [
        key
        for key, (reason, image, _) in good.items()
        if not int(key) % 2 and (met[key][0] != reason or not met[key][1].equal(image))
    ]
    reasons = [(met[f"{2 * n + 1:05d}"][0], why) for n, (_, why) in enumerate(nasty)]
    escaped = [crashes(partial(decode_image, one, MAX_PIXELS), BadSample) for one, _ in nasty]
    record.figure(f"nasty_pictures{plan.suffix}", len(nasty))
    record.figure(f"nasty_pictures_misjudged{plan.suffix}", sum(a != b for a, b in reasons))
    record.figure(f"nasty_crashes{plan.suffix}", sum(escaped))
    record.figure(f"nasty_neighbours_lost{plan.suffix}", len(lost))
    bombs = [content for name, (content, _) in PICTURES.items() if "bomb" in name or "huge" in name]
    work = [partial(crashes, partial(decode_image, one, MAX_PIXELS), BadSample) for one in bombs]
    record.figure(f"bomb_memory{plan.suffix}", max(map(peak, work)))
    record.figure(f"bomb_seconds{plan.suffix}", _worst(work))


def _worst(work: list[Callable[[], object]]) -> Spread:
    """Seconds of the processor, of each the least of some repeats: what the work itself takes."""
    least = []
    for one in work:
        readings = []
        for _ in range(REPEATS):
            began = time.process_time()
            one()
            readings.append(time.process_time() - began)
        least.append(min(readings))
    return Spread(max(least), max(least), max(least), REPEATS)


def test_nasty_captions_are_cleaned_in_no_time(plan: Plan, record: Record) -> None:
    tokenizer, texts = open_tokenizer(None), [*CAPTIONS, *fuzzed(FUZZED)]

    def learn(text: object) -> None:
        tokenizer.encode([clean_caption(text, 30)], 30)

    work = [partial(crashes, partial(learn, text), BadSample) for text in texts]
    record.figure(f"nasty_captions{plan.suffix}", len(texts))
    record.figure(f"caption_escapes{plan.suffix}", sum(one() for one in work))
    record.figure(f"caption_seconds{plan.suffix}", _worst(work))


def test_hostile_servers_get_nothing(plan: Plan, record: Record) -> None:
    with hostile_server() as server:
        outside = hostile.Elsewhere(server.port)
        base = f":{server.port}"
        urls = [
            f"http://127.0.0.1{base}{path}"
            for path in (*hostile.INWARD, *hostile.ENDLESS, *hostile.SLOW)
        ]
        costs = [hostile.visit(url) for url in urls]
        # Each of these is looked up twice: for robots.txt and for the picture.
        named = [f"http://{name}{base}/good" for name in hostile.NAMED]
        costs += [hostile.visit(url, robots=True) for url in named]
        asked = len({path for path in server.asked if path.startswith("127.")})
        assert asked == len(urls) <= outside.here
        # And to this machine itself, where that is not allowed.
        locked = server.asked.total()
        costs.append(hostile.visit(urls[0], allow_loopback=False))
        hits = outside.count + server.asked.total() - locked
    record.figure(f"hostile_endpoints{plan.suffix}", len(costs))
    record.figure(f"hostile_let_in{plan.suffix}", sum(not cost.reason for cost in costs))
    record.figure(f"hostile_private_hits{plan.suffix}", hits)
    most = max(cost.received for cost in costs)
    record.figure(f"hostile_bytes{plan.suffix}", most / hostile.ALLOWED_BYTES)
    late = max(cost.seconds for cost in costs) - hostile.LIMITS.timeout
    record.figure(f"hostile_seconds_late{plan.suffix}", max(0.0, late))


def test_who_opts_out_is_left_alone_and_what_is_purged_is_gone(
    plan: Plan, record: Record, tmp_path: Path
) -> None:
    out = [path for path, (_, reason) in CASES.items() if reason == "opt_out"]
    said_otherwise = ("/other_noindex", "/unavailable", "/not_reserved", "/good")
    with hostile_server() as server:
        found = {
            p: hostile.visit(f"http://127.0.0.1:{server.port}{p}", timeout=20.0).reason
            for p in (*out, *said_otherwise)
        }
        listed = pairs(server, COLLECTED)
        table = collect(write_list(tmp_path / "l.csv", listed), tmp_path / "out")
    record.figure(f"opt_outs_asked{plan.suffix}", len(out))
    record.figure(
        f"opt_outs_honoured{plan.suffix}", sum(found[p] == "opt_out" for p in out) / len(out)
    )
    record.figure(f"opt_outs_overdone{plan.suffix}", sum(found[p] != "" for p in said_otherwise))
    before, folder = samples(tmp_path / "out"), tmp_path / "out"
    numbers = range(0, COLLECTED, COLLECTED // PURGED)
    gone = {table[number]["uid"]: number for number in numbers}
    (tmp_path / "uids").write_text("\n".join(gone))
    places = {uid: traces(folder, *listed[n], pattern(n)) for uid, n in gone.items()}
    assert all(places.values()) and len(before) == COLLECTED
    purge(tmp_path / "uids", [str(folder)], lambda line: None)
    after = samples(folder)
    clean = [
        uid
        for uid, n in gone.items()
        if uid not in after and not traces(folder, *listed[n], pattern(n))
    ]
    record.figure(f"purge_complete{plan.suffix}", len(clean) / len(gone))
    kept = {uid: one for uid, one in before.items() if uid not in gone}
    record.figure(
        f"purge_others_changed{plan.suffix}", sum(after.get(u) != o for u, o in kept.items())
    )


def tiny_shards(folder: Path, shards: int) -> Path:
    """So many names of one shard and its index, as the writer makes them: each is opened, checked
    and read like one of its own."""
    with ShardWriter(folder / "one", "pairs", PER_SHARD) as writer:
        for number in range(PER_SHARD):
            facts = {"uid": f"uid-{number}", "url": f"http://example.org/{number}"}
            content = picture(number, 16)
            writer.add(f"{number:08d}", content, "png", caption(number), facts)
    one = folder / "one" / "pairs_00000.tar"
    (folder / "set").mkdir()
    for number in range(shards):
        name = folder / "set" / f"{number:05d}.tar"
        os.link(one, name)
        os.link(index_path(one), index_path(name))
    return folder / "set"


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A million samples in a thousand shards."""
    return tiny_shards(tmp_path_factory.mktemp("million"), LONG // PER_SHARD)


def test_a_long_set_opens_in_seconds_and_takes_no_more_memory(
    plan: Plan, record: Record, million: Path
) -> None:
    short = [str(path) for path in sorted(million.glob("*.tar"))[: SHORT // PER_SHARD]]

    def first_sample(spec: str | list[str], length: int) -> None:
        source = open_source(spec)
        assert len(source) == length and source.fingerprint
        assert source.read(Order(source.lengths, 0, 64).of_slot(0)).problem is None

    sets = (short, SHORT), (str(million), LONG)
    grown = [peak(partial(first_sample, *one)) for one in sets]
    record.figure(f"million_pairs_memory{plan.suffix}", max(grown[1] - grown[0], 0))
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        first_sample(str(million), LONG)
        seconds.append(time.perf_counter() - began)
    record.figure(f"million_pairs_seconds{plan.suffix}", Spread.of(seconds))


def test_reading_on_takes_no_more_memory(plan: Plan, record: Record, million: Path) -> None:
    batch, count = 100, plan.samples_read
    config, source = one_batch(million, batch), open_source(str(million))
    loader = build_loader(
        config, source, open_tokenizer(None), rank=0, world_size=1, start_step=0,
        stop_step=count // batch,
    )  # fmt: skip
    resident = [status("VmRSS") for batch in loader if len(batch)]
    tenth = max(1, len(resident) // 10)
    # The first tenth fills what is allocated once.
    first, last = (
        statistics.median(resident[tenth : 2 * tenth]),
        statistics.median(resident[-tenth:]),
    )
    record.figure(f"samples_read{plan.suffix}", len(resident) * batch)
    record.figure(f"reading_memory_growth{plan.suffix}", max(0.0, last / first - 1))
