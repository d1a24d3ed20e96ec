"""Look a run over before it begins: `python launch/check.py --config RECIPE ...`."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import yaml

from engine.capfilt.config import CapFiltConfig
from engine.config import ConfigError, RunConfig
from engine.findings import Finding, error
from launch.cli import BAD_INPUT, run_main
from launch.finetune import TASKS, FinetuneConfig
from launch.mistakes import parse_on, says

EXAMPLES = """
  python launch/check.py --config launch/recipes/quickstart.yaml \\
    --data.train runs/quickstart/data/train --output_dir runs/mine
  python launch/check.py --config launch/recipes/finetune_captioner.yaml --ranks 8 \\
    --model.checkpoint runs/base_14m --data.train coco_karpathy_train.json \\
    --data.image_root coco --output_dir runs/captioner
  python launch/check.py --task capfilt --help
"""
CAPFILT_EXAMPLES = """
  python launch/check.py --task capfilt --config launch/recipes/capfilt.yaml \\
    --data.train 'shards/{00000..01399}.tar' --captioner runs/captioner --filter runs/filter
  python launch/check.py --task capfilt --config runs/clean/config.yaml --json
"""
DESCRIPTION = (
    "Find what would fail or waste a run, all of it at once and in seconds: the flags are the "
    "run's own. Exit code 2 where there is an error. --task capfilt takes those of capfilt.py."
)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is asked of the check.

    Args:
        task: `pretrain`, `capfilt`, or what is fine-tuned (caption, retrieval, nlvr,
            visdial, vqa, video_retrieval, video_qa); a
            recipe of fine-tuning says it itself.
        ranks: processes that the run will have; null takes one a GPU, or the launcher's number.
        json: print one JSON object instead of lines.
    """

    task: str = "pretrain"
    ranks: int | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class CheckConfig(_Asked, RunConfig):
    """A run of training and what is asked of the check."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("pretrain", "capfilt", *TASKS)
        if self.task not in known:
            raise ConfigError(f"task {self.task!r} is not known: choose {' or '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class CheckCapFiltConfig(_Asked, CapFiltConfig):
    """A run of captioning and filtering and what is asked of the check."""


def main() -> int:
    """Look over, and print what was found; 2 where there is an error."""
    words = ["--json=true" if word == "--json" else word for word in sys.argv[1:]]
    kind = CheckCapFiltConfig if _task(words) == "capfilt" else CheckConfig
    examples = CAPFILT_EXAMPLES if kind is CheckCapFiltConfig else EXAMPLES
    given, mistakes, left_out = parse_on(kind, words, description=DESCRIPTION, examples=examples)
    findings = [error("config", line) for line in mistakes]
    as_json = given.json if given else "--json=true" in words
    # Imported late: help and configuration errors need no torch.
    began = time.perf_counter()
    if given is not None:
        from engine.check.host import Host
        from engine.check.run import check_cleaning, check_training

        host, began = Host.read(), time.perf_counter()
        if isinstance(given, CheckCapFiltConfig):
            found = check_cleaning(only(CapFiltConfig, given), host)
        else:
            ranks = given.ranks or int(os.environ.get("WORLD_SIZE") or host.gpus or 1)
            found = check_training(for_run(given), given.task, ranks, host)
        # Where a setting was a mistake, its default was looked at, which nobody asked for.
        findings += [one for one in found if not any(says(one.line, key) for key in left_out)]
    _say(findings, time.perf_counter() - began, as_json)
    return BAD_INPUT if any(found.severity == "error" for found in findings) else 0


def _task(words: Sequence[str]) -> str:
    """The task that flags or a recipe name, before anything is parsed."""
    task = ""
    for word, following in zip(words, [*words, ""][1:], strict=True):
        flag, _, value = word.partition("=")
        value = value or following
        if flag == "--task":
            task = value
        elif flag == "--config" and not task and Path(value).is_file():
            try:
                tree = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError, yaml.YAMLError):
                continue
            task = str(tree.get("task", "")) if isinstance(tree, dict) else ""
    return task


def for_run(given: CheckConfig) -> RunConfig:
    """The configuration that the run itself would have."""
    return only(RunConfig if given.task == "pretrain" else FinetuneConfig, given)


def only(kind: type, given: Any) -> Any:
    """The settings of a run alone, without what is asked of the check."""
    return kind(**{field.name: getattr(given, field.name) for field in fields(kind)})


def _say(findings: list[Finding], seconds: float, as_json: bool) -> None:
    counts = Counter(finding.severity for finding in findings)
    if as_json:
        facts = {f"{kind}s": counts[kind] for kind in ("error", "warning")}
        facts |= {"findings": [asdict(one) for one in findings], "seconds": round(seconds, 2)}
        print(json.dumps(facts, indent=1))
        return
    for finding in findings:
        print(finding)
    kinds = ("error", "warning")
    said = ", ".join(f"{counts[kind]} {kind}{'s' * (counts[kind] != 1)}" for kind in kinds)
    print(f"{said if findings else 'nothing wrong was found'} ({seconds:.1f} s)")


if __name__ == "__main__":
    run_main(main)
