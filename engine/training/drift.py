"""Settings that must not change between a run and its continuation."""

from typing import Any

from engine.config import RunConfig, to_dict
from engine.data.decoders import ON_DEVICE
from engine.differences import flat
from engine.manifest import CheckpointError

# Settings that may differ between a run and its continuation: none of them changes a number.
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
