"""A conversion leaves all of its shards or none, however it ends."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.data import pack_pairs
from engine.data.shard_writer import ShardWriter
from engine.folder_lock import open_lock, try_lock
from launch import pack
from tests.commands import Ended, call, contents
from tests.shards import picture

ROWS, PER_SHARD = 12, 2


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A list of twelve pairs."""
    (tmp_path / "one.png").write_bytes(picture(1))
    rows = [{"image": "one.png", "caption": f"thing {n}"} for n in range(ROWS)]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    return tmp_path / "pairs.json"


def convert(pairs: Path, output: Path) -> Ended:
    words = ("convert", pairs, "--image_root", pairs.parent, "--output_dir", output)
    return call(pack.main, *words, "--samples_per_shard", PER_SHARD)


@pytest.fixture
def whole(pairs: Path, tmp_path: Path) -> dict[str, str]:
    """What a conversion makes that nothing disturbs."""
    assert convert(pairs, tmp_path / "whole").code == 0
    assert len(contents(tmp_path / "whole")) == 2 * ROWS // PER_SHARD
    return contents(tmp_path / "whole")


def test_a_killed_one_leaves_nothing_to_be_taken_for_the_set(
    pairs: Path, tmp_path: Path, whole: dict[str, str]
) -> None:
    many = tmp_path / "many.json"
    many.write_text(json.dumps(json.loads(pairs.read_text()) * 20000))
    output = tmp_path / "web"
    words = ["convert", many, "--image_root", tmp_path, "--output_dir", output]
    words += ["--samples_per_shard", PER_SHARD]
    command = [sys.executable, pack.__file__, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as writer:
        while not list(output.glob(".unfinished/*.tar")):
            assert writer.poll() is None
            time.sleep(0.01)
        writer.send_signal(signal.SIGKILL)
    assert not list(output.glob("*.tar*"))
    found = call(pack.main, "verify", output)
    assert found.code == 2 and "no .tar shard in this folder" in found.err
    assert convert(pairs, output).code == 0
    assert contents(output) == whole


def test_a_disk_that_is_full_keeps_nothing(
    pairs: Path, tmp_path: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ShardWriter.add

    def until_full(self: ShardWriter, key: str, *given: object) -> None:
        if int(key) == 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(self, key, *given)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", until_full)
        ended = convert(pairs, tmp_path / "web")
    assert ended.code == 2
    assert "cannot be written: No space left on device; nothing was kept" in ended.err
    assert contents(tmp_path / "web") == {}
    assert convert(pairs, tmp_path / "web").code == 0
    assert contents(tmp_path / "web") == whole


@pytest.mark.parametrize("moved", range(0, 2 * ROWS // PER_SHARD, 3))
def test_one_that_ends_while_shards_are_moved_is_finished_by_the_next(
    moved: int, pairs: Path, tmp_path: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, done = Path.rename, []

    def until(self: Path, target: Path) -> Path:
        if len(done) == moved:
            raise KeyboardInterrupt
        done.append(self)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", until)
        with pytest.raises(KeyboardInterrupt):
            pack_pairs.convert(
                [str(pairs)],
                tmp_path / "web",
                image_root=str(tmp_path),
                samples_per_shard=PER_SHARD,
            )
    ended = convert(pairs, tmp_path / "web")
    assert ended.code == 2 and "that is done now" in ended.err
    assert contents(tmp_path / "web") == whole


def test_two_at_once_leave_each_other_alone(pairs: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "web" / pack_pairs.UNFINISHED
    with open_lock(unfinished) as lock:
        assert try_lock(lock)
        (unfinished / "pairs_00000.tar").write_bytes(b"of the other")
        ended = convert(pairs, tmp_path / "web")
        assert ended.code == 2 and "another conversion is writing here" in ended.err
        assert (unfinished / "pairs_00000.tar").read_bytes() == b"of the other"
    shutil.rmtree(unfinished)


def test_texts_of_a_table_stay_what_they_are(tmp_path: Path) -> None:
    """Digits are no numbers, dates no days; and bytes that are no text are one line."""
    (tmp_path / "0001").write_bytes(picture(1))
    for ending, comma in (("csv", ","), ("tsv", "\t")):
        path = tmp_path / f"pairs.{ending}"
        path.write_text(f"image{comma}caption\n0001{comma}007\n0001{comma}2026-01-02\n")
        assert convert(path, tmp_path / ending).code == 0
        sets = pack_pairs.open_source([str(tmp_path / ending)])
        assert [sets.read(n).captions for n in range(2)] == [["007"], ["2026-01-02"]]
        path.write_bytes(f"image{comma}caption\n0001{comma}caf\u00e9\n".encode("latin-1"))
        ended = convert(path, tmp_path / f"{ending}_other")
        assert ended.code == 2 and ended.err.count("\n") == 1
        assert f"not readable as {ending}: " in ended.err and "UTF8" in ended.err


def test_a_root_that_is_forgotten_is_asked_for(pairs: Path, tmp_path: Path) -> None:
    rows = json.loads(pairs.read_text())[:3] + [
        {"image": str(tmp_path / "one.png"), "caption": "a"}
    ]
    pairs.write_text(json.dumps(rows))
    (tmp_path / "elsewhere").mkdir()
    words = ("convert", pairs, "--image_root", tmp_path / "elsewhere")
    ended = call(pack.main, *words, "--output_dir", tmp_path / "web")
    assert ended.code == 0
    assert ended.out.endswith("left out: 3 missing; is --image_root right?\n")
