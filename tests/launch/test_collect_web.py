"""`collect.py web` and `purge`: every mistake is one line, exit code 2, and changes nothing."""

import os
import resource
from pathlib import Path

import pytest

from launch import collect
from tests.commands import call, contents
from tests.hostile_web import hostile_server
from tests.shards import write_shards
from tests.web_collections import PATIENCE, command, pairs, write_list

WEB = [
    ("", "no list: set pairs to .csv, .tsv, .parquet or .jsonl files"),
    ("--pairs none.csv", "none.csv: no such file; set pairs to lists of URLs"),
    ("--pairs none*.csv", "none*.csv: no file matches"),
    ("--pairs data", "data: is a folder; set pairs to lists of URLs"),
    ("--pairs data/pairs_00000.tar", "pairs_00000.tar: none of .csv, .tsv, .parquet, .jsonl"),
    ("--pairs empty.csv", "empty.csv: no rows"),
    ("--pairs head.csv", "head.csv: no rows"),
    ("--pairs other.csv", "other.csv: no column of URLs (url, image_url"),
    ("--pairs urls.csv", "urls.csv: no column of captions (caption, "),
    ("--pairs good.parquet", "good.parquet: not readable as parquet"),
    ("--pairs good.csv --output_dir data", "data holds pairs_00000.tar but no settings.json"),
    ("--pairs good.csv --output_dir good.csv", "output_dir good.csv is a file"),
    ("--pairs good.csv --output_dir ", "output_dir is empty"),
    ("--pairs good.csv --workers 0", "workers is 0: must be at least 1"),
    ("--pairs good.csv --fetch.timeout 0", "fetch.timeout is 0.0: must be above 0"),
    ("--pairs good.csv --fetch.timeot 3", "did you mean 'fetch.timeout'?"),
    ("--pairs good.csv --screen.near 11", "screen.near is 11: must be at least 0 and at most 10"),
    ("--pairs good.csv --screen.languages [english]", "'english' is not known: choose of en"),
    ("--pairs good.csv --screen.eval none", "none: no such file or folder"),
    (
        "--pairs good.csv --fetch.user_agent \u00fc",
        "fetch.user_agent '\u00fc': must be printable ASCII",
    ),
    ("--config none.yaml", "--config none.yaml: no such file"),
]
PURGE = [
    ("", "--uids"),
    ("--uids uids.txt", "--data"),
    ("--uids none.txt --data data", "--uids none.txt: No such file or directory"),
    ("--uids bytes --data data", "--uids bytes: no UTF-8 text"),
    ("--uids uids.txt --data none", "none: no such file or folder"),
    ("--uids uids.txt --data good.csv", "good.csv: not a .tar shard"),
    ("--uid uids.txt --data data", "--uids"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_shards(tmp_path / "data", 3)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "head.csv").write_text("url,caption\n")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "urls.csv").write_text("url,b\n1,2\n")
    (tmp_path / "good.csv").write_text("url,caption\nhttp://a.test/1,some words\n")
    (tmp_path / "good.parquet").write_text("url,caption\n")
    (tmp_path / "uids.txt").write_text("uid-1\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x80")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("verb", "cases"), [("web", WEB), ("purge", PURGE)])
def test_a_mistake_is_one_line_and_changes_nothing(
    verb: str, cases: list[tuple[str, str]], folder: Path
) -> None:
    before = contents(folder)
    for mistake, message in cases:
        words = mistake.split(" ") if mistake else []
        done = call(collect.main, verb, *words)
        assert (done.code, done.out) == (2, ""), mistake
        assert done.err.startswith("error: "), mistake
        assert done.err.count("\n") == 1, mistake
        assert message in done.err, mistake
        assert contents(folder) == before, mistake


@pytest.mark.parametrize("verb", ["web", "purge"])
def test_help_explains_every_flag_and_shows_examples(verb: str) -> None:
    done = call(collect.main, verb, "--help")
    assert (done.code, done.err) == (0, "")
    usage, _, examples = done.out.partition("examples:\n")
    words = {word for word in examples.split() if word.startswith("--")}
    assert examples.count(f"launch/collect.py {verb}") >= 2
    assert words <= set(usage.replace(",", " ").split())
    assert f"usage: python launch/collect.py {verb} " in usage


def test_purging_by_command(folder: Path) -> None:
    done = call(collect.main, "purge", "--uids", "uids.txt", "--data", "data")
    assert (done.code, done.err) == (0, "")
    assert done.out == "pictures taken out: 1; uids: 1, shards: 1\n"
    (folder / "uids.txt").write_text("a typo\n")
    done = call(collect.main, "purge", "--uids", "uids.txt", "--data", "data")
    assert (done.code, done.out) == (2, "")
    assert "none of its 1 uids and URLs is in these shards or their tables: a typo" in done.err
    (folder / "uids.txt").write_text("uid-2\na typo\n")
    done = call(collect.main, "purge", "--uids", "uids.txt", "--data", "data")
    assert done.out.endswith("out: 1; uids: 2, shards: 1; in none of the shards: a typo\n")


def test_a_full_disk_is_one_line_and_the_next_launch_goes_on(tmp_path: Path) -> None:
    """No file may grow beyond some kilobytes: the journal's write fails."""
    with hostile_server() as server:
        source, out = write_list(tmp_path / "l.csv", pairs(server, 200)), tmp_path / "out"
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            first = command(source, out, "--workers", 4)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        _, said = first.communicate(timeout=PATIENCE)
        assert first.returncode == 2, said
        assert said.splitlines()[-1].startswith(f"error: {out}: cannot be written: File too large")
        asked = sum(server.asked.values())
        second = command(source, out, "--workers", 4)
        assert "200 of 200 pairs kept" in second.communicate(timeout=PATIENCE)[0]
        assert second.returncode == 0
        # What was journaled is not fetched again; the row that each worker ended with is.
        assert asked < 200
        assert sum(server.asked.values()) <= 200 + 4
    assert not os.listdir(out / "work")
