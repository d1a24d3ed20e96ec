"""A shard is put down beside the next one's scoring, and what goes wrong there is not lost."""

import threading

import pytest

from engine.capfilt.finishing import Finishing


def refuse() -> None:
    raise OSError("the disk says no")


def test_work_goes_on_beside_its_caller_and_is_waited_for() -> None:
    finishing, go, done = Finishing(), threading.Event(), []
    finishing.begin("a", lambda: go.wait(10) and done.append("a"))
    finishing.look()
    assert (finishing.name, done) == ("a", [])
    go.set()
    finishing.wait()
    assert (finishing.name, done) == (None, ["a"])
    finishing.begin("b", lambda: done.append("b"))
    finishing.close()
    assert done == ["a", "b"]


def test_what_went_wrong_is_raised_once() -> None:
    finishing = Finishing()
    finishing.begin("a", refuse)
    with pytest.raises(OSError, match="says no"):
        finishing.wait()
    finishing.wait()
    finishing.begin("b", refuse)
    with pytest.raises(OSError, match="says no"):
        while finishing.name:
            finishing.look()
    finishing.close()
