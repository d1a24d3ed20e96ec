"""Settings between a run and its continuation: which must not change, and what others change."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.config import RunConfig, to_dict
from engine.data.decoders import ON_DEVICE
from engine.differences import flat
from engine.manifest import CheckpointError

# Settings that may differ between a run and its continuation: none of them changes a number but
# those of which `as_begun` tells.
FREE = {
    "output_dir",
    "resume",
    "device",
    "tensorboard",
    "checkpoint",
    "deepspeed",
    "evaluate",
    "data.train",
    "data.eval",
    "data.image_root",
    "data.workers",
    "data.jpeg_decoder",
    "data.max_bad_fraction",
    "model.vocabulary",
    "model.init_vision",
    "model.init_text",
    "model.checkpoint",
    "train.epochs",
    "train.max_steps",
    "train.micro_batch_size",
    "train.log_every",
    "train.max_skipped_in_a_row",
    "train.activation_checkpointing",
    "train.compile",
    "train.cuda_graph",
}


# What younger settings than a checkpoint were before they were there, where not their default.
BEFORE = {"data.fast_views": False}


# What a run once started from, and does not look at again.
ORIGINS = ("checkpoint", "init_vision", "init_text")


def as_begun(
    state: dict[str, Any], config: RunConfig, micro_batch: int
) -> tuple[RunConfig, list[str]]:
    """What a continuation really does.

    Args:
        state: of its checkpoint.
        config: as it is given now.
        micro_batch: pairs that a process takes in one forward pass now.

    Returns:
        The configuration with the origins that the run has, and lines about what is otherwise than
        somebody may expect.
    """
    begun = {name: state["config"]["model"].get(name) for name in ORIGINS}
    lines = [
        f"model.{name} {other} is not looked at: the run began from {begun[name] or 'nothing'}"
        for name in ORIGINS
        if (other := getattr(config.model, name)) and not _same(other, begun[name])
    ]
    # Of checkpoints that are older than the line it is not known.
    before, masks = state.get("micro_batch_size", micro_batch), _drawn(config)
    if before != micro_batch and masks:
        lines.append(
            f"{micro_batch} pairs in a process's forward pass, {before} until now: the masks of "
            f"{masks} are others than they would have been; all else is the same but for rounding"
        )
    length, planned = _length(to_dict(config)["train"]), _length(state["config"]["train"])
    if length != planned and config.train.schedule != "step":
        schedule = f"the rate of train.schedule {config.train.schedule}"
        lines.append(f"{length} in all, {planned} until now: {schedule} is that of the new length")
    return replace(config, model=replace(config.model, **begun)), lines


def _length(train: dict[str, Any]) -> str:
    steps = train["max_steps"]
    return f"{train['epochs']} epochs" if steps is None else f"{steps} steps"


def _drawn(config: RunConfig) -> str:
    """What draws masks a micro-batch at a time, in words; "" where nothing does."""
    network = config.model.network()
    rates = {"dropout": network.dropout, "drop path": network.vision_drop_path}
    return " and ".join(name for name, rate in rates.items() if rate)


def _same(place: str, other: str | None) -> bool:
    """Whether both name one place, from here or in full."""
    return place == other or bool(other) and Path(place).resolve() == Path(other).resolve()


def refuse_drift(saved: dict[str, Any], config: RunConfig, where: str) -> None:
    """A continuation must not change the arithmetic.

    Raises:
        CheckpointError: another task; or lists every setting that differs, with both values.
    """
    old, new = flat(saved), flat(to_dict(config))
    was, task = (tree.get("task", "pretraining") for tree in (old, new))
    if was != task:
        raise CheckpointError(
            f"{where} belongs to a {was} run, not to one of {task}: start anew in another "
            "output_dir (model.checkpoint takes its weights along)"
        )
    # Captions are trained behind the prompt that they are generated behind.
    free = {key for key in {*old, *new} if {key, key.partition(".")[0]} & FREE}
    free -= {"evaluate.prompt"} if task == "caption" else set()
    # Decoders of the host give the same pixels, and those on a device nearly.
    decoder = "data.jpeg_decoder"
    free -= {decoder} if {old.get(decoder), new.get(decoder)} & {*ON_DEVICE} else set()
    old = {**flat(to_dict(RunConfig())), **BEFORE, **old}
    drifted = [
        f"{key} {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted({*old, *new} - free)
        if old.get(key) != new.get(key)
    ]
    if drifted:
        raise CheckpointError(
            f"{where} was made with other settings ({'; '.join(drifted)}): change them back, or "
            "start anew in another output_dir (model.checkpoint takes its weights along)"
        )
