"""A shard damaged in every way that disks, copies and packers know, over and over."""

import io
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.data.index import index_path, open_index
from engine.data.tar_members import key_of, members

Damage = Callable[[Path], None]
# Where a header holds what its checksum is over, of what reading depends on: name, size, kind.
FIELDS = (*range(8), *range(124, 136), 156)


def damages(shard: Path, flips: int, cuts: int, others: int) -> Iterator[tuple[str, Damage]]:
    """Kinds and what does them to a copy of a shard, seeded.

    Args:
        shard: whole, with its index.
        flips: bits: six of ten in a member, three in a header, one anywhere.
        cuts: at any byte of what is stored.
        others: members or a file that are missing, and as many shards of members that do not
            stand together.
    """
    rng, whole, index = random.Random(0), shard.read_bytes(), open_index(shard)
    spans = [(int(o), int(o + n)) for table in index.places.values() for o, n in table]
    end = max(stop for _, stop in spans)
    with shard.open("rb") as file:
        parts = [(m.name, whole[m.offset : m.offset + m.size]) for m in members(file, shard)]
    for number in range(flips):
        start, stop = rng.choice(spans)
        place = rng.randrange(start, stop)
        if number % 10 >= 6:
            place = start - 512 + rng.choice(FIELDS) if number % 10 < 9 else rng.randrange(end)
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.randrange(8)
        yield "flip", _written(bytes(broken))
    for _ in range(cuts):
        yield "cut", _written(whole[: rng.randrange(end)])
    for number in range(others):
        gone = rng.choice([name for name, _ in parts if not name.endswith("json")])
        left = [part for part in parts if part[0] != gone]
        yield "missing", (_packed(left) if number % 2 else Path.unlink)
    for _ in range(others):
        # Samples are in the order of their first members.
        first = [part for part in parts if part[0].endswith("png")]
        rest = rng.sample([part for part in parts if part not in first], len(parts) - len(first))
        assert len({key_of(name)[0] for name, _ in first}) == len(index)
        yield "interleaved", _packed(first + rest)


def _written(content: bytes) -> Damage:
    def write(shard: Path) -> None:
        shard.write_bytes(content)

    return write


def _packed(parts: list[tuple[str, bytes]]) -> Damage:
    """Another shard, of which no index was made yet."""

    def write(shard: Path) -> None:
        index_path(shard).unlink()
        with tarfile.TarFile(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in parts:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

    return write
