"""Collections of web pairs: what is in them, that it is the same always, and what is refused."""

import json
import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.collect.web.config import ScreenSection, WebConfig, uid_of
from engine.collect.web.lists import Lists
from engine.collect.web.run import collect_web
from engine.config import ConfigError
from engine.data.open_source import open_source
from engine.data.pack import verify_shards
from tests.hostile_answers import pattern
from tests.hostile_web import hostile_server
from tests.shards import write_shards
from tests.web_collections import (
    PATIENCE,
    Signaller,
    collect,
    output_of,
    pairs,
    reasons,
    rows_of,
    settings,
    write_list,
)


def test_rows_become_pairs_in_the_order_of_the_list(tmp_path: Path) -> None:
    with hostile_server() as server:
        listed = pairs(server, 45)
        table = collect(write_list(tmp_path / "l.csv", listed), tmp_path / "out")
    assert [row["row"] for row in table] == [*range(45)]
    assert [(row["url"], row["uid"]) for row in table] == [(u, uid_of(u, c)) for u, c in listed]
    source = open_source(str(tmp_path / "out"))
    assert source.lengths == [20, 20, 5]
    for number, (url, caption) in enumerate(listed):
        sample = source.read(number)
        assert (sample.url, sample.captions) == (url, [caption])
        assert (sample.key, sample.uid) == (f"{number:09d}", uid_of(url, caption))
        assert sample.image == pattern(number)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["rows"], summary["kept"], summary["unaccounted"]) == (45, 45, 0)


def test_the_same_bytes_for_any_number_of_threads(tmp_path: Path) -> None:
    found = []
    with hostile_server() as server:
        rows = pairs(server, 70)
        # Copies, of which the first in the list stays whoever is answered first.
        rows[33::7] = [(url.replace("/p/", "/p/0"), f"again {c}") for url, c in rows[:6]]
        source = write_list(tmp_path / "l.csv", rows)
        for workers in (1, 3, 16):
            out = tmp_path / f"out{workers}"
            table = collect(source, out, workers=workers)
            assert reasons(table) == {"": 64, "copy": 6}
            assert [row["copy_of"] for row in table if row["copy_of"] is not None] == [*range(6)]
            found.append(output_of(out))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("count", [1, 26, 49])
def test_kill_9_loses_what_is_in_flight_and_repeats_nothing_else(
    count: int, tmp_path: Path
) -> None:
    with hostile_server() as server:
        source = write_list(tmp_path / "l.csv", pairs(server, 50))
        collect(source, tmp_path / "whole")
        server.asked.clear()
        server.on_request = killer = Signaller(count, signal.SIGKILL)
        flags = ["--samples_per_shard=20", "--workers=3"]
        process = killer.start(source, tmp_path / "out", *flags)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGKILL
        collect(source, tmp_path / "out", workers=3)
        assert sum(server.asked.values()) <= 50 + 3
        assert max(server.asked.values()) <= 2
    assert output_of(tmp_path / "out") == output_of(tmp_path / "whole")


def test_a_signal_saves_everything_and_says_so(tmp_path: Path) -> None:
    with hostile_server() as server:
        source = write_list(tmp_path / "l.csv", pairs(server, 50))
        server.on_request = stopper = Signaller(10, signal.SIGTERM)
        process = stopper.start(source, tmp_path / "out", "--samples_per_shard=20")
        process.communicate(timeout=PATIENCE)
        # It may be at its end before it looks at who wants it to stop.
        assert process.returncode in (0, 75)
        collect(source, tmp_path / "out")
        # Nothing was in flight when it ended.
        assert set(server.asked.values()) == {1}


@pytest.mark.parametrize("left", [0, 3000])
def test_finished_shards_that_went_are_missed(left: int, tmp_path: Path) -> None:
    with hostile_server() as server:
        source = write_list(tmp_path / "l.csv", pairs(server, 50))
        collect(source, tmp_path / "out")
        before = output_of(tmp_path / "out")
        shard = tmp_path / "out" / "00001.tar"
        content = shard.read_bytes()
        shard.write_bytes(content[:left])
        if not left:
            shard.unlink()
        with pytest.raises(ConfigError, match=r"00001.tar.*; bring it back, or delete .*00001.p"):
            collect(source, tmp_path / "out")
        shard.write_bytes(content)
        (tmp_path / "out" / "00001.tar.index").unlink()
        collect(source, tmp_path / "out")
        assert output_of(tmp_path / "out") == before
        shard.unlink()
        (tmp_path / "out" / "table" / "00001.parquet").unlink()
        server.asked.clear()
        collect(source, tmp_path / "out")
        assert sum(server.asked.values()) == 20
    assert output_of(tmp_path / "out") == before


def test_one_launch_at_a_time(tmp_path: Path) -> None:
    with hostile_server() as server:
        source = write_list(tmp_path / "l.csv", pairs(server, 3))
        refusals = []

        def again(_: object) -> None:
            with pytest.raises(ConfigError, match="another run is writing here"):
                collect_web(settings(source, tmp_path / "out"), False)
            refusals.append(1)

        server.on_request = again
        collect(source, tmp_path / "out")
    assert len(refusals) == 3


def test_what_would_change_the_output_is_refused(tmp_path: Path) -> None:
    with hostile_server() as server:
        source = write_list(tmp_path / "l.csv", pairs(server, 3))
        collect(source, tmp_path / "out")
        before = output_of(tmp_path / "out")
        server.asked.clear()
        collect(source, tmp_path / "out", workers=9, decoders=1, fetch={"host_delay": 0.1})
        assert output_of(tmp_path / "out") == before
        assert not server.asked
        for changes, said in (
            ({"samples_per_shard": 30}, "with samples_per_shard 20, not 30"),
            ({"screen": {"min_side": 32}}, "with screen.min_side 64, not 32"),
            ({"fetch": {"retries": 5}}, "with fetch.retries 1, not 5"),
        ):
            with pytest.raises(ConfigError, match=said):
                collect(source, tmp_path / "out", **changes)
        write_list(source, pairs(server, 4))
        with pytest.raises(ConfigError, match="other lists, or lists that changed since"):
            collect(source, tmp_path / "out")
    assert output_of(tmp_path / "out") == before


def test_every_kind_of_list_says_the_same(tmp_path: Path) -> None:
    rows = [("http://a.test/1", 'with "quotes", commas'), ("http://a.test/2", "zwei\nZeilen äöü")]
    head = ("URL", "TEXT")
    csv_list = write_list(tmp_path / "l.csv", rows)
    lines = [json.dumps(dict(zip(head, row, strict=True))) for row in rows]
    (tmp_path / "l.jsonl").write_text("\n".join(lines) + "\n")
    columns = zip(*rows, strict=True)
    table = {name: list(column) for name, column in zip(head, columns, strict=True)}
    pq.write_table(pa.table(table), tmp_path / "l.parquet")
    tabs = csv_list.read_text().replace("url,caption", "image_url\talt").replace("1,", "1\t")
    (tmp_path / "l.tsv").write_text(tabs.replace("2,", "2\t"))
    for name in ("l.csv", "l.tsv", "l.jsonl", "l.parquet"):
        found = [(row.url, row.caption) for row in Lists([str(tmp_path / name)]).rows()]
        assert found == rows, name


def test_rows_that_are_none_are_rows_of_the_table(tmp_path: Path) -> None:
    long = json.dumps({"url": "http://a.test/1", "text": "x" * (3 << 20)})
    lines = ['{"url": "x://y", "text": "some words"}', "[1]", "{", '{"url": 3, "text": "a"}', long]
    lines += ['{"text": "only"}', '{"url": "ftp://a.test/b", "text": "last words"}']
    (tmp_path / "l.jsonl").write_text("\n".join(lines))
    table = collect(tmp_path / "l.jsonl", tmp_path / "out")
    assert [row["reason"] for row in table] == ["scheme", *["bad_row"] * 5, "scheme"]
    (tmp_path / "short.csv").write_text('url,caption\nhttp://a.test\n\n"x\ny",caption of this\n')
    table = collect(tmp_path / "short.csv", tmp_path / "csv")
    assert [row["reason"] for row in table] == ["bad_row", "bad_url"]


def test_captions_are_screened_before_anybody_is_asked(tmp_path: Path) -> None:
    with hostile_server() as server:
        url = f"http://127.0.0.1:{server.port}/p"
        captions = [
            "",
            " \t",
            "ab",
            "one",
            "a dog on the beach",
            "ein Hund und der Strand",
            "собака на море",
        ]
        captions += ["word " * 30, "same words", "Same  words", "same words "]
        rows = [(f"{url}/{number}", caption) for number, caption in enumerate(captions)]
        rows.append(rows[4])
        screen = {"languages": ["en"], "min_words": 2, "max_words": 20, "max_repeats": 2}
        table = collect(write_list(tmp_path / "l.csv", rows), tmp_path / "out", screen=screen)
        assert [row["reason"].removeprefix("caption_") for row in table] == [
            *["empty"] * 2,
            *["short"] * 2,
            "",
            *["language"] * 2,
            "long",
            *["frequent"] * 3,
            "repeated_row",
        ]
        assert sum(server.asked.values()) == 1


def test_copies_of_evaluation_pictures_are_not_collected(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(pattern(number, 200, "JPEG"))
    listed = [{"image": f"{number}.jpg", "caption": "a"} for number in range(2)]
    (tmp_path / "eval.json").write_text(json.dumps(listed))
    with hostile_server() as server:
        source = write_list(tmp_path / "l.csv", pairs(server, 5))
        screen = {"eval": str(tmp_path / "eval.json")}
        for name, near in (("out", 6), ("copies", None)):
            table = collect(source, tmp_path / name, screen={**screen, "near": near})
            assert [row["reason"] for row in table] == ["evaluation_copy"] * 2 + [""] * 3


def test_a_host_is_asked_politely(tmp_path: Path) -> None:
    with hostile_server() as server:
        source = write_list(tmp_path / "l.csv", pairs(server, 30))
        server.on_request = lambda _: time.sleep(0.01)
        collect(source, tmp_path / "out", workers=16, fetch={"host_connections": 2})
        assert server.most <= 2


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    source = write_list(tmp_path / "l.csv", [("http://a.test/1", "some words")])
    write_shards(tmp_path / "shards", 3)
    with pytest.raises(ConfigError, match="holds pairs_00000.tar but no settings.json"):
        collect(source, tmp_path / "shards")
    assert verify_shards([str(tmp_path / "shards")]).samples == 3
    assert rows_of(tmp_path) == []


def test_numbers_outside_their_ranges_are_refused() -> None:
    with pytest.raises(ConfigError, match="screen.min_words 9 is more than screen.max_words 3"):
        WebConfig(screen=ScreenSection(min_words=9, max_words=3))
    with pytest.raises(ConfigError, match="'xx' is not known: choose of en, de"):
        WebConfig(screen=ScreenSection(languages=["xx"]))
