"""Batches made one ahead of their use."""

import threading
import time
from collections.abc import Generator

import pytest
import torch

from engine.capfilt.pictures import batches, one_ahead, viewed
from engine.data.shards import Shards
from engine.data.whole_views import whole_views
from engine.training.signals import Interrupted
from tests.capfilt_runs import make_world

CPU = torch.device("cpu")


def test_one_is_made_while_the_one_before_is_used() -> None:
    made, used = [threading.Event() for _ in range(4)], []

    def things() -> Generator[int, None, None]:
        for number in range(4):
            made[number].set()
            yield number

    for number in one_ahead(things()):
        used.append(number)
        assert number == 3 or made[number + 1].wait(10)
        assert number > 1 or not made[number + 2].is_set()
    assert used == [0, 1, 2, 3]
    assert list(one_ahead(number for number in ())) == []


def test_an_error_comes_where_it_happened_and_everything_is_closed() -> None:
    closed = []

    def things(last: int) -> Generator[int, None, None]:
        try:
            yield from range(last)
            raise OSError("gone")
        finally:
            closed.append(last)

    used = []
    with pytest.raises(OSError, match="gone"):
        for number in one_ahead(things(2)):
            used.append(number)
    assert used == [0, 1] and closed == [2]
    left = one_ahead(things(9))
    assert next(left) == 0
    left.close()
    assert closed == [2, 9]


def test_a_signal_while_the_thread_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pool does not know of it then, and it is at work."""
    begun, ended, start = threading.Event(), [], threading.Thread.start

    def things() -> Generator[int, None, None]:
        try:
            begun.set()
            time.sleep(0.3)
            yield 0
        finally:
            ended.append(0)

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        assert begun.wait(10)
        raise Interrupted

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(Interrupted):
        next(one_ahead(things()))
    assert ended == [0]


def test_views_are_those_of_the_batches(tmp_path_factory: pytest.TempPathFactory) -> None:
    world = make_world(tmp_path_factory.mktemp("pictures"))
    shards = Shards([sorted((world / "data").glob("*.tar"))[0]])
    settings = {"workers": 2, "max_pixels": 10**8}
    plain = list(batches(shards, 3, {16, 32}, CPU, **settings))
    found = list(viewed(shards, 3, {16, 32}, CPU, **settings))
    assert len(found) == len(plain) > 1
    for (good, bad), (same, equally_bad, views) in zip(plain, found, strict=True):
        assert [one.uid for one in same] == [one.uid for one in good] and equally_bad == bad
        for size, take in views.items():
            want = whole_views([one.carried[size] for one in good], size, CPU)
            assert torch.equal(take(), want) and size in (16, 32)
