"""Threads of a CPU: in bf16 their number changes no byte, in fp32 it belongs to the run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kernels.packed_linear import packing_problem
from tests.capfilt_runs import clean, make_world, outcome

PROBLEM = packing_problem(torch.zeros(1, dtype=torch.bfloat16))
needs_packing = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))

pytestmark = pytest.mark.xdist_group("capfilt_threads")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def identity(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


@needs_packing
def test_in_bf16_any_number_writes_the_same(world: Path) -> None:
    for threads in (1, 3):
        more = ("--precision", "bf16", "--threads", threads)
        ended = clean(world, world / f"bf16_{threads}", *more)
        assert ended.code == 0, ended.err
        assert torch.get_num_threads() == threads
    assert "threads" not in identity(world / "bf16_1")
    assert outcome(world / "bf16_1") == outcome(world / "bf16_3")


def test_in_fp32_another_number_is_refused(world: Path) -> None:
    output = world / "fp32"
    assert clean(world, output, "--threads", 3).code == 0
    before = outcome(output)
    assert identity(output)["threads"] == 3
    ended = clean(world, output, "--threads", 2)
    assert ended.code == 2
    assert "other settings or weights (threads 3 -> 2): give the same ones" in ended.err
    assert clean(world, output, "--threads", 3).code == 0
    assert outcome(output) == before


@pytest.mark.parametrize("threads", [0, 1025])
def test_a_number_that_no_process_has_is_refused(world: Path, threads: int) -> None:
    ended = clean(world, world / "none", "--threads", threads)
    assert ended.code == 2
    assert f"threads is {threads}: must be at least 1 and at most 1024" in ended.err
