"""One evaluation from its configuration to `results.json`."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.config import ConfigError, RunConfig
from engine.data.held_out import MAX_TOKENS
from engine.data.picture_files import printable
from engine.differences import differences, flat
from engine.durable import write_whole
from engine.evaluation.confusion import draw_confusion
from engine.evaluation.tasks import TASKS
from engine.folder_lock import hold
from engine.inference import load
from engine.runtime import Runtime
from engine.share import ALONE, Share

CASES = "cases.json"
# Of those that are left out, how many `results.json` names.
BAD_NAMED = 20
# Characters of the names of data in a message: there may be thousands of shards.
LONGEST_NAME = 300


def evaluate(config: RunConfig, task: str, here: Runtime = ALONE) -> dict[str, Any]:
    """Evaluate `model.checkpoint` on `data.eval` and write `output_dir/results.json`.

    Predictions that a benchmark takes in go to `output_dir/predictions.json`, or the name that its
    server knows: `captions.json`, `ranks.json`, `vqa_result.json`. What went best and worst goes to
    `output_dir/cases.json`.

    Args:
        config: with the model, the data and the folder.
        task: name.
        here: of this process; several share the work, and the first one writes. Collective.

    Returns:
        What `results.json` holds, on the first process.

    Raises:
        ConfigError: no checkpoint, no data, results of another evaluation in output_dir, or a disk
            that refuses; on every process.
    """
    share, folder = Share(here), Path(config.output_dir)
    with share.one_fate():
        if not config.model.checkpoint:
            raise ConfigError("no model: set model.checkpoint to a run folder or weights")
        if not config.data.eval:
            raise ConfigError("no pairs: set data.eval to shards or an annotation file")
        with _alone(folder) if here.is_main else contextlib.nullcontext():
            results = _evaluated(config, task, share)
            if here.is_main:
                try:
                    _write(folder, task, results)
                except OSError as error:
                    raise _unwritable(folder, error) from None
    if here.is_main:
        _print(folder, results)
    return results


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make the folder and keep others out, whose results would take the place of these."""
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            is_free = held.enter_context(hold(folder))
        except OSError as error:
            raise _unwritable(folder, error) from None
        if not is_free:
            raise ConfigError(f"output_dir {folder}: another evaluation is writing here")
        yield


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"output_dir {folder}: cannot be written: {error.strerror}")


def _evaluated(config: RunConfig, task: str, share: Share) -> dict[str, Any]:
    if share.here.is_main:
        given = config.model.checkpoint, config.data.eval, _settings(config, task)
        refuse_other_results(Path(config.output_dir), task, *given)
    asked = TASKS[task]
    source = asked.open(config.data.eval, config.data.image_root)
    blip = load(
        config.model.checkpoint,
        device=config.device,
        precision=config.precision,
        section=config.model,
        progress=share.here.is_main,
        frozen=True,
    )
    blip.require(asked.part)
    size = blip.model.config.image_size
    seen = {"frames": config.data.frames} if asked.frames else {}
    samples = asked.collect(source, size, config.data.max_words, config.data.max_pixels, **seen)
    samples.share, samples.max_bad_fraction = share, config.data.max_bad_fraction
    samples.max_tokens = max(samples.max_tokens, config.data.max_tokens)
    # What one process refuses all know before the work.
    share.meet(None)
    began = time.perf_counter()
    found = asked.evaluate(blip, samples, config.evaluate)
    bad = [f"{key} ({reason})" for key, reason in samples.bad[:BAD_NAMED]]
    return {
        "task": task,
        **found,
        "bad_samples": len(samples.bad),
        "bad_named": bad,
        "seconds": time.perf_counter() - began,
        "checkpoint": config.model.checkpoint,
        "step": blip.step,
        "data": config.data.eval,
        "settings": _settings(config, task),
    }


def _settings(config: RunConfig, task: str) -> dict[str, Any]:
    """What figures depend on, as JSON holds it; those of other tasks change nothing and are there
    too. How many are looked at at once is no part of it."""
    kept = {"precision": config.precision, "image_size": config.model.image_size}
    kept["max_words"] = config.data.max_words
    if config.data.max_tokens > MAX_TOKENS:
        kept["max_tokens"] = config.data.max_tokens
    if TASKS[task].frames:
        kept["frames"] = config.data.frames
    kept["evaluate"] = asdict(config.evaluate)
    del kept["evaluate"]["batch_size"]
    return json.loads(json.dumps(kept))


def _write(folder: Path, task: str, results: dict[str, Any]) -> None:
    """Write what an evaluation found."""
    predictions, cases = (results.pop(name, None) for name in ("predictions", "cases"))
    (folder / CASES).unlink(missing_ok=True)
    if cases is not None:
        write_results(folder / CASES, {"task": task} | cases)
    if predictions is not None:
        write_results(folder / TASKS[task].predictions, predictions)
    write_results(folder / "results.json", results)
    if "confusion" in results:
        draw_confusion(results["classes"], results["confusion"], folder / "confusion.png")


def _print(folder: Path, results: dict[str, Any]) -> None:
    for name, value in results["metrics"].items():
        chance = results["chance"].get(name)
        beside = "" if chance is None else f"   (chance {chance:.3f})"
        print(f"{name:40s} {value:.3f}{beside}")
    bad = results["bad_named"]
    left_out = f", {results['bad_samples']} left out as bad, the first {bad[0]}" if bad else ""
    print(f"{folder / 'results.json'}: {results['count']} evaluated{left_out}", file=sys.stderr)


def refuse_other_results(
    folder: Path,
    task: str,
    checkpoint: str,
    data: str | Sequence[str],
    settings: dict[str, Any],
) -> None:
    """Results in a folder may only be an older evaluation of the same.

    Args:
        folder: that the results go to.
        task: its name.
        checkpoint: that is evaluated.
        data: on which.
        settings: by which; results from before data or settings were noted may be by any.

    Raises:
        ConfigError: results of another task or checkpoint, on other data or by other settings, or a
            folder that cannot be written.
    """
    path = folder / "results.json"
    try:
        if not path.exists():
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        same = found["task"] == task and found["checkpoint"] is not None
        if same and Path(found["checkpoint"]).resolve() == Path(checkpoint).resolve():
            theirs = found.get("data", data)
            apart = differences(flat(found.get("settings", settings)), flat(settings))
            if _places(theirs) != _places(data):
                problem = f"holds the {task} results on {_said(theirs)}, not on {_said(data)}"
            elif apart:
                problem = f"holds the {task} results of other settings ({', '.join(apart)})"
            else:
                return
        else:
            problem = f"holds the {found['task']} results of {found['checkpoint']}"
    except OSError as error:
        raise _unwritable(folder, error) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        problem = "was not written by an evaluation"
    raise ConfigError(f"{path} {problem}: choose another output_dir")


def _listed(data: str | Sequence[str]) -> list[str]:
    return [data] if isinstance(data, str) else list(data)


def _places(data: str | Sequence[str]) -> list[str]:
    return sorted(str(Path(one).resolve()) for one in _listed(data))


def _said(data: str | Sequence[str]) -> str:
    said = printable(", ".join(_listed(data)))
    return said if len(said) <= LONGEST_NAME else f"{said[: LONGEST_NAME - 1]}…"


def write_results(path: Path, results: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(results, indent=1) + "\n").encode())
