"""Peers run with the C library as they find it, our sides with freed memory kept."""

import resource

from bench.conftest import OwnMemory

SIZE = 96 << 20


def faults() -> int:
    """Pages of this process that were touched for the first time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def work() -> int:
    """Takes a large block and frees it; pages that were fresh to it."""
    before = faults()
    block = bytearray(SIZE)
    del block
    return faults() - before


def test_our_sides_meet_their_freed_memory_and_peers_do_not() -> None:
    found: dict[str, list[int]] = {"original": [], "ours": []}
    sides = {name: lambda name=name: found[name].append(work()) for name in found}
    own_memory = OwnMemory(sides)
    for name in ("ours", "original", "ours", "original"):
        own_memory(name)
        sides[name]()
    # Each run is the untimed one and then the one that counts.
    assert len(found["ours"]) == len(found["original"]) == 4
    assert max(found["ours"][1::2]) < 100 < 1000 < min(found["original"][1::2])


def test_sides_of_the_same_kind_change_nothing() -> None:
    ran: list[str] = []
    names = ("original fp32", "original bf16", "ours fp32", "ours bf16")
    own_memory = OwnMemory({name: lambda name=name: ran.append(name) for name in names})
    for name in names:
        own_memory(name)
    assert ran == ["original fp32", "ours fp32"]
