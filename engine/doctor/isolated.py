"""Probes in processes of their own: one that crashes or hangs is a finding, not the end.

They are forked, so what the parent has imported need not be imported again; a GPU is first touched
in the child.
"""

import ctypes
import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

Probe = Callable[[], Any]
FORKED = multiprocessing.get_context("fork")
# prctl(2): the signal that a process gets when its parent ends.
PARENT_DEATH = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a probe.

    Attributes:
        facts: what it returned, as JSON holds it; None where it failed.
        problem: why it failed, in a line.
        seconds: that it took.
    """

    facts: Any = None
    problem: str | None = None
    seconds: float = 0.0


def isolated(probe: Probe, seconds: float) -> Outcome:
    """Run a probe in a child; what it prints is dropped.

    Args:
        probe: returns what JSON can hold.
        seconds: after which it is killed.
    """
    began = time.monotonic()
    reader, writer = FORKED.Pipe(duplex=False)
    child = FORKED.Process(target=_work, args=(probe, writer))
    child.start()
    writer.close()
    answer = None
    try:
        if reader.poll(seconds):
            answer = json.loads(reader.recv_bytes())
    except (EOFError, OSError):
        child.join(5)
    finally:
        silent, code = answer is None and child.is_alive(), child.exitcode
        child.kill()
        child.join()
        reader.close()
    took = round(time.monotonic() - began, 3)
    if answer is not None:
        return Outcome(**answer, seconds=took)
    why = f"gave no answer in {seconds:g} s and was stopped" if silent else f"ended with {code}"
    if code is not None and code < 0:
        why = f"crashed: {signal.Signals(-code).name}"
    return Outcome(problem=why, seconds=took)


def each_isolated(probes: dict[str, Probe], seconds: float) -> dict[str, dict[str, Any]]:
    """Outcomes of many short probes: in one child, and each in its own where that one crashed.

    Args:
        probes: by name; an exception of one leaves the others be.
        seconds: for each.
    """

    def together() -> dict[str, Any]:
        return {name: asdict(_outcome(probe)) for name, probe in probes.items()}

    all_of_them = isolated(together, seconds * max(1, len(probes)) / 2)
    if all_of_them.problem is None:
        return all_of_them.facts
    return {name: asdict(isolated(probe, seconds)) for name, probe in probes.items()}


def _work(probe: Probe, writer: Connection) -> None:
    _die_with_parent()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    # A crash is told by the parent.
    faulthandler.disable()
    outcome = _outcome(probe)
    writer.send_bytes(json.dumps({"facts": outcome.facts, "problem": outcome.problem}).encode())
    writer.close()
    # What libraries do at the end of a process is no part of the probe.
    os._exit(0)


def _outcome(probe: Probe) -> Outcome:
    began = time.monotonic()
    try:
        facts = probe()
        json.dumps(facts)
        return Outcome(facts, None, round(time.monotonic() - began, 3))
    except Exception as error:  # noqa: BLE001 - whatever a library raises is the answer
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Outcome(None, f"{type(error).__name__}: {lines[0]}"[:300])


def _die_with_parent() -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PARENT_DEATH, signal.SIGKILL)
