"""Ranks agree on what a step is given: all take it or none does, and bad samples are told alike."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.config import ConfigError, RunConfig, TrainSection
from engine.data.bad_samples import BadSampleLedger
from engine.data.batch import Batch
from engine.runtime import Runtime
from engine.training.feed import Feed
from engine.training.signals import Interrupted

CONFIG = RunConfig(train=TrainSection(global_batch_size=8))


@dataclass(frozen=True)
class OfTwo(Runtime):
    """The second of two processes; what the first one brings is given."""

    counts: tuple[int, ...] = (0, 0, 0)
    things: Any = None

    def sums(self, counts: list[int]) -> list[int]:
        return [mine + theirs for mine, theirs in zip(counts, self.counts, strict=True)]

    def gather(self, thing: Any) -> list[Any]:
        return [self.things, thing]


class Ledger(BadSampleLedger):
    """Keeps the keys in the order in which they are counted."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.order: list[str] = []

    def count(self, keys: list[str], reasons: list[str]) -> list[tuple[str, str]]:
        self.order += keys
        return super().count(keys, reasons)


def batch(keys: str, reasons: tuple[str, str] = ("", "")) -> Batch:
    ids = torch.zeros(2, 1, dtype=torch.long)
    return Batch(torch.zeros(2, 3, 1, 1), ids, ids, ids[:, 0], list(keys), list(reasons))


def feed(batches: Iterable[Batch] = (), stops: bool = False, **theirs: Any) -> tuple[Feed, Ledger]:
    """Two micro-batches a step."""

    class Stop(SimpleNamespace):
        def __bool__(self) -> bool:
            return stops

    ledger = Ledger()
    here = OfTwo(1, 2, torch.device("cpu"), **theirs)
    stop = Stop(interrupting=nullcontext)
    return Feed(iter(batches), 2, CONFIG, here, stop, ledger), ledger


def test_a_step_is_given_its_micro_batches_in_order() -> None:
    given = [batch(keys) for keys in ("ab", "cd", "ef", "gh")]
    one, ledger = feed(given)
    for first in (0, 2):
        taken, problem = one.fetch()
        assert problem is None
        agreed = one.agreed(taken, problem)
        assert [id(part) for part in agreed] == [id(part) for part in given[first : first + 2]]
    # Of all ranks, though nothing is bad.
    assert (ledger.seen, ledger.total) == (16, 0)


def test_bad_samples_are_counted_in_the_order_of_slots_and_a_reason_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    theirs = [(["a", "b"], ["", "torn"]), (["e", "f"], ["", ""])]
    one, ledger = feed(counts=(0, 0, 1), things=theirs)
    mine = [batch("cd", ("torn", "")), batch("gh", ("", "empty"))]
    with caplog.at_level(logging.WARNING):
        assert one.agreed(mine, None) == mine
    assert "".join(ledger.order) == "abcdefgh"
    assert ledger.reasons == {"torn": 2, "empty": 1}
    first, second = caplog.messages
    assert first.startswith("bad sample b: torn") and second.startswith("bad sample h: empty")
    # What is wrong with the first process alone is counted here too.
    one, ledger = feed(counts=(0, 0, 1), things=theirs)
    one.agreed([batch("cd"), batch("gh")], None)
    assert ledger.reasons == {"torn": 1}


@pytest.mark.parametrize("mine", [True, False])
def test_a_stop_of_any_rank_leaves_the_step(mine: bool) -> None:
    one, ledger = feed(stops=mine, counts=(int(not mine), 0, 0))
    assert one.agreed([batch("ab"), batch("cd")], None) is None
    assert ledger.seen == 0


def test_a_problem_of_any_rank_ends_all_with_its_line_also_while_they_stop() -> None:
    one, _ = feed(stops=True, counts=(0, 1, 0), things="theirs is torn")
    with pytest.raises(ConfigError, match="theirs is torn"):
        one.agreed([batch("ab"), batch("cd")], None)
    one, _ = feed(counts=(0, 0, 0))
    with pytest.raises(ConfigError, match="mine is torn"):
        one.agreed([], ConfigError("mine is torn"))


@pytest.mark.parametrize("error", [ConfigError("torn"), Interrupted()])
def test_what_cannot_be_fetched_is_nothing_of_a_step(error: BaseException) -> None:
    def failing() -> Iterator[Batch]:
        yield batch("ab")
        raise error

    one, _ = feed(failing())
    assert one.fetch() == ([], error if isinstance(error, ConfigError) else None)
