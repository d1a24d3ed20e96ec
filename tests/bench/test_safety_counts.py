"""What the safety suite counts: each count rises where there is something to count."""

import os
import subprocess
import sys
from mmap import MAP_PRIVATE, PAGESIZE, mmap
from pathlib import Path

import pytest

from bench.accounts import contents, crashes, epoch, unaccounted, unaccounted_by_tarfile
from bench.hostile import INWARD, Elsewhere, visit
from bench.memory import peak
from engine.data.images import BadSample
from engine.data.open_source import open_source
from engine.data.shards import xxhash
from engine.data.tokenizer import open_tokenizer
from tests.damages import damages
from tests.hostile_answers import GOOD
from tests.hostile_web import hostile_server
from tests.shards import write_shards


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """One of 6 samples."""
    return next(write_shards(tmp_path / "data", 6).glob("*.tar"))


def test_a_reader_that_checks_no_hash_loses_samples(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = open_tokenizer(None)
    whole = epoch(shard, 6, tokenizer)
    assert isinstance(whole, list) and unaccounted(whole, whole, shard) == 0
    content = shard.read_bytes()
    place = content.index(b"number 3")
    shard.write_bytes(content[:place] + b"Number 8" + content[place + 8 :])
    assert unaccounted(whole, epoch(shard, 6, tokenizer), shard) == 0
    same = {h for table in open_source(str(shard)).index(0).hashes.values() for h in table.tolist()}
    assert same
    monkeypatch.setattr("engine.data.shards.xxhash", Trusting(same))
    assert unaccounted(whole, epoch(shard, 6, tokenizer), shard) == 1


class Trusting:
    """Finds every member to be what its index says."""

    def __init__(self, hashes: set[int]) -> None:
        self.hashes = hashes
        self.xxh3_128_hexdigest = xxhash.xxh3_128_hexdigest

    def xxh3_64_intdigest(self, content: bytes) -> "Trusting":
        return self

    def __ne__(self, other: object) -> bool:
        return False


def test_samples_that_are_gone_or_refused_without_a_name_are_counted(shard: Path) -> None:
    whole = epoch(shard, 6, open_tokenizer(None))
    assert isinstance(whole, list)
    assert unaccounted(whole, whole[:4], shard) == 2
    assert unaccounted(whole, whole[:4] + whole[:2], shard) == 2
    assert unaccounted(whole, "something is wrong", shard) == 6
    assert unaccounted(whole, f"{shard}: truncated", shard) == 0


def test_a_stream_loses_what_is_behind_a_damaged_header(shard: Path) -> None:
    stored = contents(open_source(str(shard)))
    assert unaccounted_by_tarfile(shard, stored) == 0
    content = bytearray(shard.read_bytes())
    content[content.index(b"00003.png")] ^= 1
    shard.write_bytes(content)
    assert unaccounted_by_tarfile(shard, stored) == 3


def test_every_kind_of_damage_changes_the_shard(shard: Path) -> None:
    whole, index, kinds = shard.read_bytes(), shard.with_name(shard.name + ".index"), []
    stored = index.read_bytes()
    for kind, damage in damages(shard, 10, 3, 2):
        damage(shard)
        assert not shard.exists() or shard.read_bytes() != whole
        kinds.append(kind)
        shard.write_bytes(whole)
        index.write_bytes(stored)
    assert kinds == ["flip"] * 10 + ["cut"] * 3 + ["missing"] * 2 + ["interleaved"] * 2


def test_what_is_raised_beside_a_reason_is_a_crash() -> None:
    def bad() -> None:
        raise BadSample("empty")

    assert [crashes(work, BadSample) for work in (bad, dict, lambda: {}["x"])] == [0, 0, 1]


def test_memory_that_is_taken_and_let_go_of_again_is_seen() -> None:
    assert 94 << 20 < peak(touched) < 104 << 20
    assert peak(lambda: None) < 8 << 20
    with pytest.raises(ChildProcessError):
        peak(lambda: {}["x"])


def test_freed_memory_that_a_process_keeps_hides_no_growth() -> None:
    """As the suite's process keeps it: a copy would take it first."""
    program = """
import torch
from bench.memory import peak
from engine.runtime import keep_memory
torch.set_num_threads(1)
keep_memory()

def taken():
    return [torch.ones(20 << 20, dtype=torch.uint8) for _ in range(4)]

taken()
print(peak(taken) >> 20)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert 78 < int(done.stdout) < 90, done.stderr


def test_what_forking_lets_go_of_hides_no_growth() -> None:
    held = [mapped(96 << 20)]
    os.register_at_fork(after_in_child=held.clear)
    assert 94 << 20 < peak(touched) < 104 << 20
    held.clear()


def touched() -> None:
    """Takes 96 MiB and lets go of them."""
    mapped(96 << 20)


def mapped(size: int) -> mmap:
    """Bytes of its own that the kernel gives: a heap may have had as many before."""
    pages = mmap(-1, size, MAP_PRIVATE)
    for start in range(0, size, PAGESIZE):
        pages[start] = 1
    return pages


def test_visits_are_measured_and_connections_elsewhere_heard() -> None:
    with hostile_server() as server:
        outside = Elsewhere(server.port)
        base = f"http://127.0.0.1:{server.port}"
        good = visit(f"{base}/good", timeout=60.0)
        assert good.reason == "" and good.received > len(GOOD)
        assert {visit(base + path, timeout=60.0).reason for path in INWARD} == {
            "private_address",
            "scheme",
        }
        drip = visit(f"{base}/drip", timeout=0.2)
        assert drip.reason == "timeout" and drip.seconds > 0.2
        assert (outside.here, outside.count) == (2 + len(INWARD), 0)
        with hostile_server() as other:
            visit(f"http://127.0.0.1:{other.port}/good", timeout=60.0)
        assert outside.count == 1
