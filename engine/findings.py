"""What is wrong or doubtful before a run begins: a line each, which says what to do about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from engine.config import ConfigError


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        severity: `error` fails or wastes the run, `warning` is slow or doubtful.
        name: of the kind of fault, the same in every release.
        line: what is wrong, where, and what to do.
    """

    severity: Literal["error", "warning"]
    name: str
    line: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.line} [{self.name}]"


def error(name: str, line: str) -> Finding:
    """A fault that fails or wastes a run."""
    return Finding("error", name, " ".join(line.split()))


def warning(name: str, line: str) -> Finding:
    """A fault that makes a run slow or doubtful."""
    return Finding("warning", name, " ".join(line.split()))


def refusals(name: str, work: Callable[[], object], advice: str = "") -> Iterator[Finding]:
    """What a run itself would refuse, found by the same function.

    Args:
        name: of the fault.
        work: raises ConfigError where there is one.
        advice: what to do, where the error does not say it.
    """
    try:
        work()
    except ConfigError as refused:
        yield error(name, f"{refused}; {advice}" if advice else str(refused))
