"""What a run found, as JSON: flat figures, their spread, all times, and where it was measured."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.interleaved import Spread


@dataclass
class Record:
    """Findings of one suite or of all of them.

    Attributes:
        figures: numbers by name.
        spread: of each figure, its quartiles and repeats; a count has one repeat.
        times: of each comparison and side, in seconds a call.
        kernels: where a GPU's time goes, by what was profiled: of each kernel its kind, calls and
            milliseconds in one run of it, the longest first.
        notes: lines about what could not be measured, or how to read it.
    """

    figures: dict[str, float] = field(default_factory=dict)
    spread: dict[str, dict[str, float]] = field(default_factory=dict)
    times: list[dict[str, Any]] = field(default_factory=list)
    kernels: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def figure(self, name: str, value: Spread | float) -> None:
        """Keep a figure; a plain number is a count, which has no spread."""
        found = value if isinstance(value, Spread) else Spread(value, value, value, 1)
        self.figures[name] = found.value
        self.spread[name] = {"q1": found.q1, "q3": found.q3, "repeats": found.repeats}

    def note(self, line: str) -> None:
        """Keep a line, once."""
        if line not in self.notes:
            self.notes.append(line)

    def compare(self, comparison: str, seconds: dict[str, list[float]]) -> None:
        """Keep the times of the sides of a comparison."""
        for side, values in seconds.items():
            found = asdict(Spread.of(values))
            median = found.pop("value")
            row = {"comparison": comparison, "side": side, "median": median, **found}
            self.times.append({**row, "seconds": values})

    def merge(self, other: "Record") -> None:
        """Take over another's findings."""
        self.figures |= other.figures
        self.spread |= other.spread
        self.times += other.times
        self.kernels |= other.kernels
        for line in other.notes:
            self.note(line)

    def write(self, path: Path, **facts: Any) -> None:
        """Write it with facts about the run."""
        tree = {**facts, **asdict(self)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Findings alone."""
        tree = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{name: tree[name] for name in cls.__dataclass_fields__})
