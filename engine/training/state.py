"""The state contract: everything a step depends on, to a checkpoint and back.

`model`: weights of the online network, and of the momentum encoders and the queues where the
objective has them, under the original's names. `optimizer`: AdamW's moments. `state.json`:
counters and the resolved run. Everything else (order, augmentation, dropout, negatives, schedules)
is a function of the step and is not state.
"""

from typing import Any

import torch

from blip_model.blip import Blip
from blip_model.momentum import Momentum
from engine.checkpoint import Checkpoint, CheckpointError, check_keys
from engine.config import RunConfig, to_dict
from engine.differences import flat
from engine.training.deepspeed_engine import DeepSpeedEngine

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
}


def gather(
    engine: DeepSpeedEngine, momentum: Momentum | None, keep: bool
) -> dict[str, dict[str, torch.Tensor]]:
    """Whole tensors by file, the same for every stage and number of ranks. Collective.

    Args:
        engine: with the online network.
        momentum: encoders and queues, or None.
        keep: whether this rank wants them; the others only take part.

    Raises:
        CheckpointError: a tensor of the network is not covered.
    """
    model = engine.model
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    every = {n: own[id(p)] for n, p in model.named_parameters(remove_duplicate=False)}
    check_keys(set(model.state_dict()), set(every), "the network's state")
    weights = {}
    with engine.whole_parameters() as whole:
        if keep:
            # A shared tensor is stored once for each of its names, as in the original's files.
            weights = {name: whole[first].cpu().clone() for name, first in every.items()}
            weights |= {name: tensor.cpu().clone() for name, tensor in _state(momentum).items()}
    return {"model": weights, "optimizer": engine.moments(keep)}


def _state(momentum: Momentum | None) -> dict[str, torch.Tensor]:
    return {} if momentum is None else momentum.state_dict()


def load_weights(checkpoint: Checkpoint, model: Blip, momentum: Momentum | None) -> None:
    """Put a checkpoint's weights into fresh modules, before DeepSpeed wraps the online one.

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors, by name.
    """
    weights = checkpoint.tensors["model"]
    online, follower = model.state_dict(), _state(momentum)
    check_keys({*online, *follower}, set(weights), str(checkpoint.path))
    for name, tensor in {**online, **follower}.items():
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"{checkpoint.path}: {name} is {list(weights[name].shape)}, "
                f"this run needs {list(tensor.shape)}"
            )
    model.load_state_dict({name: weights[name] for name in online})
    if momentum is not None:
        momentum.load_state_dict({name: weights[name] for name in follower})


def load_moments(checkpoint: Checkpoint, engine: DeepSpeedEngine) -> None:
    """Put a checkpoint's optimizer state into the wrapped network. Collective."""
    moments = checkpoint.tensors["optimizer"]
    expected = {f"{m}.{n}" for m in ("exp_avg", "exp_avg_sq") for n in engine.named_parameters()}
    check_keys(expected, set(moments), f"{checkpoint.path} (optimizer)")
    engine.set_moments(moments, checkpoint.state["updates"])


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
