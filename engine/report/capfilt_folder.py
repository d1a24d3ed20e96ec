"""What a captioning-and-filtering run left behind, read without trust."""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config import ConfigError
from engine.data.pack import shards_of
from engine.report.run_folder import (
    attribution_of,
    clip,
    clip_config,
    number,
    read_config,
    read_object,
    read_text,
    specs_of,
)


@dataclass(frozen=True)
class Rule:
    """Which texts stay; the settings of the run's `rule`."""

    itm_threshold: float = 0.5
    itc_threshold: float | None = None
    best_synthetic: int | None = None
    at_most: int | None = None
    rank_by: str = "itm"
    drop_duplicates: bool = False
    drop_not_words: bool = True


@dataclass(frozen=True, kw_only=True)
class CapFiltFolder:
    """The parts of a run that a report shows.

    Args:
        root: output_dir of the run.
        tables: a Parquet file a shard, in order of names.
        rule: of the run.
        summary: counts over all shards; empty where the run has not ended.
        config: the resolved run as nested dictionaries.
        config_text: the same as it stands in config.yaml.
        bad: bad samples by reason.
        unread: why shards could not be read, by name.
        times: rows of throughput.jsonl: `shard`, `pictures`, `begun` and `ended` (Unix seconds),
            `process`.
        notes: lines about parts that could not be read.
    """

    root: Path
    tables: list[Path]
    rule: Rule
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    bad: dict[str, int] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    times: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def train(self) -> list[str]:
        """What the run's `data.train` names."""
        return specs_of(self.config, "train")

    @property
    def attribution(self) -> list[str]:
        """What the run's pairs ask to be printed beside their pictures."""
        return attribution_of(self.train, self.notes)

    def inputs(self) -> dict[str, Path]:
        """Input shards by name, of those that are still there."""
        try:
            found = shards_of(self.train) if self.train else []
        except (ConfigError, OSError) as error:
            self.notes.append(f"The input pictures cannot be opened: {error}")
            return {}
        return {path.stem: path for path in found if path.is_file()}


def is_capfilt(root: Path) -> bool:
    """Whether a folder is the output of a captioning-and-filtering run."""
    return (root / "table").is_dir() and (
        (root / "run.json").is_file() or (root / "ledger").is_dir()
    )


def read_capfilt(root: Path) -> CapFiltFolder:
    """Read the parts of a run that are there.

    Raises:
        ConfigError: no shard is finished.
    """
    notes: list[str] = []
    tables = sorted((root / "table").glob("*.parquet"))
    if not tables:
        raise ConfigError(f"--run {root}: no shard is finished there: nothing to report yet")
    config_text = read_text(root / "config.yaml", notes) or ""
    config = read_config(config_text, notes) or {}
    identity = read_object(root / "run.json", notes) or {}
    bad, unread = _quarantine(root / "quarantine", notes)
    return CapFiltFolder(
        root=root,
        tables=tables,
        rule=_rule(identity.get("rule") or config.get("rule")),
        summary=read_object(root / "summary.json", notes) or {},
        config=config,
        config_text=clip_config(config_text),
        bad=bad,
        unread=unread,
        times=[row for row in _rows(root / "throughput.jsonl", notes) if _is_time(row)],
        notes=notes,
    )


def _rule(given: Any) -> Rule:
    """The rule as far as its values make sense, defaults for the rest."""
    given = given if isinstance(given, dict) else {}

    def real(name: str, default: float | None, low: float) -> float | None:
        value = number(given.get(name))
        return value if value is not None and low <= value <= 1 else default

    def count(name: str) -> int | None:
        value = number(given.get(name))
        return int(value) if value is not None and 0 <= value < 1e6 else None

    return Rule(
        itm_threshold=real("itm_threshold", 0.5, 0.0) or 0.0,
        itc_threshold=real("itc_threshold", None, -1.0),
        best_synthetic=count("best_synthetic"),
        at_most=count("at_most"),
        rank_by="itc" if given.get("rank_by") == "itc" else "itm",
        drop_duplicates=given.get("drop_duplicates") is True,
        # Runs from before there was such a rule had none.
        drop_not_words=given.get("drop_not_words") is True,
    )


def _quarantine(folder: Path, notes: list[str]) -> tuple[dict[str, int], dict[str, str]]:
    """Bad samples by reason, and shards that could not be read with the reason."""
    bad: Counter[str] = Counter()
    unread = {}
    for path in sorted(folder.glob("*.jsonl")):
        for row in _rows(path, notes):
            reason = clip(row.get("reason"), 200)
            if "key" in row:
                bad[reason] += 1
            else:
                unread[clip(row.get("shard"), 80)] = reason
    return dict(bad), unread


def _rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Objects of a file of JSON lines; a line that is none, as a killed process leaves, is not."""
    rows = []
    for line in (read_text(path, notes) or "").split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _is_time(row: dict[str, Any]) -> bool:
    values = [number(row.get(name)) for name in ("pictures", "begun", "ended")]
    return all(v is not None and math.isfinite(v) and v >= 0 for v in values) and (
        row["ended"] >= row["begun"]
    )
