"""Faults of the weights that a run starts from, by their headers; small ones are hashed too."""

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from engine import checkpoint
from engine.check.setup import PRETRAIN, Setup
from engine.checkpoint import STATE, CheckpointError
from engine.config import ConfigError
from engine.findings import Finding, error, refusals, warning
from engine.manifest import verify
from engine.weight_files import HUB_NAME, SUFFIXES, cached, is_checkpoint
from engine.weights import (
    PACKAGED_TEXT,
    Weights,
    initialise,
    open_weights,
    saved_prompt,
    start_from,
    start_momentum,
)

# Bytes of a checkpoint that are hashed: a second's worth.
HASHED = 1 << 29
ANOTHER = "are they of this task and this preset?"


def start(setup: Setup) -> Iterator[Finding]:
    """What model.checkpoint names, against the network of the run."""
    place, built = setup.config.model.checkpoint, setup.built
    if not place or built is None:
        return
    found, findings = open_shapes("model.checkpoint", place)
    yield from findings
    if found is None:
        return

    def put() -> None:
        start_from(built.model, found)
        if built.momentum is not None and setup.task != PRETRAIN:
            start_momentum(built.momentum, found)

    unfit = list(_by_shapes("checkpoint_other_network", put))
    yield from unfit
    ours, theirs = setup.network.image_size, found.config.image_size
    if ours != theirs and not unfit:
        yield warning(
            "positions_interpolated",
            f"model.checkpoint {place} was trained on pictures of {theirs} pixels, this run takes "
            f"{ours}: its positions are interpolated; set model.image_size to {theirs} if that is "
            "not meant",
        )
    if setup.config.model.init_vision or setup.config.model.init_text:
        yield warning(
            "init_ignored",
            "model.init_vision and model.init_text are ignored, because model.checkpoint is set: "
            "leave one of them out",
        )


def towers(setup: Setup) -> Iterator[Finding]:
    """What model.init_vision and model.init_text name."""
    section, built = setup.config.model, setup.built
    if section.checkpoint or built is None or setup.task != PRETRAIN:
        return
    given = {"init_vision": section.init_vision, "init_text": section.init_text}
    for name, place in given.items():
        if not place:
            continue
        if place != PACKAGED_TEXT and is_far(place):
            yield _on_hub(f"model.{name}", place)
            continue
        only = type(section)(**{**vars(section), **dict.fromkeys(given), name: place})
        yield from _by_shapes(f"model_{name}", lambda only=only: initialise(built.model, only))


def _by_shapes(name: str, put: Callable[[], object]) -> list[Finding]:
    """Put weights into modules that have shapes alone."""
    with warnings.catch_warnings():
        # PyTorch says of every tensor that nothing is copied, which is meant.
        warnings.simplefilter("ignore")
        found = list(refusals(name, put))
    # Where a preset fits, the line ends with it.
    named = "; give --model.preset "
    return [one if named in one.line else error(name, f"{one.line}; {ANOTHER}") for one in found]


def prompt(setup: Setup) -> Iterator[Finding]:
    """A captioner that goes on behind another prompt than it was taught."""
    place = setup.config.model.checkpoint
    if setup.task == "caption" and place:
        ours = setup.config.evaluate.prompt
        yield from other_prompt("evaluate.prompt", ours, "model.checkpoint", place)


def other_prompt(key: str, ours: str, weights: str, place: str) -> Iterator[Finding]:
    """Captions must be generated behind the prompt that they were trained behind.

    Args:
        key: setting of the prompt.
        ours: its value.
        weights: setting of the captioner.
        place: its value.
    """
    path = newest(Path(place))
    if path is None:
        return
    try:
        theirs = saved_prompt(checkpoint.read(path, only=()).state)
    except CheckpointError:
        # Told where the weights are looked at.
        return
    if theirs not in (None, ours):
        yield warning(
            "prompt",
            f"{key} {ours!r} is not the prompt {theirs!r} that {weights} {place} was trained "
            f"behind: set it to {theirs!r}",
        )


def open_shapes(key: str, place: str) -> tuple[Weights | None, list[Finding]]:
    """Weights by their headers, and what is wrong with them.

    Args:
        key: setting that names them.
        place: its value.
    """
    path = Path(place)
    if "/" in place and is_far(place):
        return None, [_on_hub(key, place)]
    if "/" in place and not path.exists():
        path = _cached(place) or path
    if not path.exists():
        advice = "give a run folder, a .pth, or a Hugging Face folder"
        return None, [
            error("checkpoint_missing", f"{key} {place}: no such file or folder; {advice}")
        ]
    if (path / "checkpoints").is_dir():
        path = newest(path)
        if path is None:
            advice = "wait for its first one, or give another run"
            return None, [
                error("checkpoint_missing", f"{key} {place}: no checkpoint in it; {advice}")
            ]
    findings = list(damage(key, path)) if is_checkpoint(path) else []
    if findings:
        return None, findings
    try:
        return open_weights(str(path), shapes_only=True), []
    except ConfigError as problem:
        return None, [error("checkpoint_unreadable", f"{key} {problem}; {ANOTHER}")]


def damage(key: str, path: Path) -> Iterator[Finding]:
    """A checkpoint of ours whose bytes are not those that were written, as far as it is small.

    Of large ones the facts alone are hashed; the run hashes them when it starts.
    """
    size = sum(file.stat().st_size for file in path.iterdir())
    try:
        verify(path, only=None if size <= HASHED else ())
    except CheckpointError as problem:
        advice = "copy it again, or give the checkpoint before it"
        yield error("checkpoint_damaged", f"{key} {problem}; {advice}")


def newest(place: Path) -> Path | None:
    """The newest checkpoint of a run folder, or the checkpoint itself; good or damaged."""
    if (place / STATE).is_file():
        return place
    found = checkpoint.steps(place / "checkpoints")
    return found[-1] if found else None


def is_far(place: str) -> bool:
    """Whether a place is a hub name whose weights are not on this machine: nothing is fetched.

    A path whose first folder is there is a path, whether all of it is there or not.
    """
    named = HUB_NAME.fullmatch(place) and not place.endswith(SUFFIXES)
    if not named or Path(place).exists() or ("/" in place and Path(place).parts[0] in os.listdir()):
        return False
    return _cached(place) is None


def _cached(place: str) -> Path | None:
    return cached(place) if HUB_NAME.fullmatch(place) else None


def _on_hub(key: str, place: str) -> Finding:
    line = f"{key} {place}: not here: the run fetches it from the hub when it starts"
    return warning("weights_on_hub", f"{line}; fetch it before, if that is not meant")


CHECKS = (start, towers, prompt)
