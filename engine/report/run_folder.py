"""What a run left behind, read without trust: any part may be absent, torn or hostile."""

import json
import math
import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from engine.config import ConfigError

LARGEST_FILE = 256 * 2**20
LONGEST_CONFIG = 100_000
LONGEST_TEXT = 300
RETRIEVAL = "evaluation/retrieval/results.json"


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """The parts of a run that a report shows; None where the run did not leave one.

    Args:
        root: the folder that was asked for.
        stage: the folder of the pretraining stage, `root/pretrain` or `root` itself.
        metrics: a row a logged step, in order of steps.
        config: the resolved run as nested dictionaries.
        config_text: the same as it stands in config.yaml.
        retrieval: results of image-text retrieval.
        caption: results of captioning.
        cases: of each evaluation, what went best and worst, with its results.
        earlier_retrieval: of the model before, where this one was pretrained on cleaned pairs.
        state: counters of the newest checkpoint.
        collection: facts about the collected pair set.
        attribution: what the data asks to be printed beside it, of each set that is named.
        notes: lines about parts that could not be read.
    """

    root: Path
    stage: Path
    metrics: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] | None = None
    config_text: str = ""
    retrieval: dict[str, Any] | None = None
    caption: dict[str, Any] | None = None
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    earlier_retrieval: dict[str, Any] | None = None
    state: dict[str, Any] | None = None
    collection: dict[str, Any] | None = None
    attribution: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def setting(self, *keys: str) -> Any:
        """A value of the configuration by its path, None where there is none."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def evaluation(self, task: str) -> str:
        """The command that leaves results of a task where `read_run` finds them."""
        own = ["--config", str(self.stage / "config.yaml")] if self.config_text else []
        words = [*own, "--model.checkpoint", str(self.stage)]
        if not self.setting("data", "eval"):
            words += ["--data.eval", "SHARDS"]
        words += ["--output_dir", str(self.stage / "evaluation" / task)]
        return shlex.join(["python", "launch/evaluate.py", "--task", task, *words])


def read_run(root: Path) -> RunFolder:
    """Read the parts of a run that are there; of a whole loop, those of its last model.

    Raises:
        ConfigError: the folder does not exist or holds none of the parts.
    """
    if not root.is_dir():
        raise ConfigError(f"--run {root}: no such folder")
    stage = root / "pretrain" if (root / "pretrain").is_dir() else root
    first, last = stage, root / "pretrain_clean"
    if (last / RETRIEVAL).is_file():
        stage = last
    notes: list[str] = []
    config_text = read_text(stage / "config.yaml", notes) or ""
    config = read_config(config_text, notes)
    pairs = specs_of(config, "train") + specs_of(config, "eval")
    run = RunFolder(
        root=root,
        stage=stage,
        metrics=_metrics(stage / "metrics.jsonl", notes),
        config=config,
        config_text=clip_config(config_text),
        retrieval=read_object(stage / RETRIEVAL, notes),
        caption=read_object(stage / "evaluation" / "caption" / "results.json", notes),
        cases=_cases(stage, notes),
        earlier_retrieval=read_object(first / RETRIEVAL, notes) if stage is last else None,
        state=_newest_state(stage / "checkpoints", notes),
        collection=read_object(root / "data" / "collection.json", notes),
        attribution=attribution_of([str(root / "data"), *pairs], notes),
        notes=notes,
    )
    if not (run.metrics or run.config_text or run.retrieval or run.caption or run.cases):
        problem = f" ({notes[0]})" if notes else ""
        raise ConfigError(
            f"--run {root}: holds nothing to report{problem}; expected pretrain/metrics.jsonl, "
            "pretrain/config.yaml or pretrain/evaluation/*/results.json"
        )
    return run


def specs_of(config: dict[str, Any] | None, key: str) -> list[str]:
    """What a setting of the section `data` names, one or a list."""
    data = (config or {}).get("data")
    spec = data.get(key) if isinstance(data, dict) else None
    return [one for one in as_list(spec) or [spec] if isinstance(one, str) and one]


def attribution_of(specs: list[str], notes: list[str]) -> list[str]:
    """What the `ATTRIBUTION.txt` beside pairs ask to be printed, each once.

    Args:
        specs: shards, lists or folders of them; it lies in the folder or in the one above.
        notes: takes a line about what cannot be read.
    """
    places = [Path(spec) for spec in specs]
    folders = [place if os.path.isdir(place) else place.parent for place in places]
    folders = dict.fromkeys(place for folder in folders for place in (folder, folder.parent))
    texts = [(read_text(folder / "ATTRIBUTION.txt", notes) or "").strip() for folder in folders]
    return [text[:2000] for text in dict.fromkeys(texts) if text]


def _cases(stage: Path, notes: list[str]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Of the folder itself, where an evaluation wrote into it, and of those in `evaluation`."""
    found = []
    for folder in (stage, *sorted((stage / "evaluation").glob("*"))):
        cases = read_object(folder / "cases.json", notes)
        if cases is not None:
            found.append((cases, read_object(folder / "results.json", notes) or {}))
    return found


def number(value: Any) -> float | None:
    """A finite or non-finite number as float; None for anything else, booleans included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def clip(value: Any, longest: int = LONGEST_TEXT) -> str:
    """Any value as text of bounded length, without control and direction-changing characters."""
    text = "" if value is None else str(value)
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]", " ", text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def as_list(value: Any) -> list[Any]:
    """A list as it is; anything else as an empty one."""
    return value if isinstance(value, list) else []


def count_of(results: dict[str, Any] | None) -> int | None:
    """How many queries or pictures the results are over."""
    value = number((results or {}).get("count"))
    return int(value) if value and math.isfinite(value) and value > 0 else None


def last_value(run: RunFolder, key: str) -> float | None:
    """The newest finite value of a metric."""
    values = [number(row.get(key)) for row in run.metrics]
    return next((v for v in reversed(values) if v is not None and math.isfinite(v)), None)


def read_text(path: Path, notes: list[str]) -> str | None:
    """A file's text; None where there is none, or with a note where it cannot be read."""
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > LARGEST_FILE:
            notes.append(f"{path.name} is larger than {LARGEST_FILE >> 20} MiB: left out")
            return None
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}")
        return None


def read_object(path: Path, notes: list[str]) -> dict[str, Any] | None:
    """A file's JSON object; None where there is none, with a note where it is something else."""
    text = read_text(path, notes)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        notes.append(f"{path.parent.name}/{path.name} is not a JSON object: left out")
        return None
    return value


def _newest_state(folder: Path, notes: list[str]) -> dict[str, Any] | None:
    """Names of checkpoints are numbered with leading zeros, longer ones are later."""
    found = sorted(folder.glob("step_*/state.json"), key=lambda p: (len(p.parent.name), p))
    return read_object(found[-1], notes) if found else None


def _metrics(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Rows by step. A resumed run logs some steps again: the later line holds."""
    rows: dict[float, dict[str, Any]] = {}
    torn = 0
    for line in (read_text(path, notes) or "").split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        step = number(row.get("step")) if isinstance(row, dict) else None
        if step is None or not math.isfinite(step):
            torn += bool(line.strip())
        else:
            rows[step] = row
    if torn:
        notes.append(f"{path.name}: {torn} unreadable line{'s' * (torn > 1)} left out")
    return [rows[step] for step in sorted(rows)]


def read_config(text: str, notes: list[str]) -> dict[str, Any] | None:
    """The settings of a config.yaml's text; None with a note where it holds none."""
    if not text:
        return None
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        notes.append("config.yaml is not readable as settings")
        return None
    return tree


def clip_config(text: str) -> str:
    """A config.yaml's text, cut where it is longer than anyone writes one."""
    return text if len(text) <= LONGEST_CONFIG else f"{text[:LONGEST_CONFIG]}\n… (cut)"
