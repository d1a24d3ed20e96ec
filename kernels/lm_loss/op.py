"""Vocabulary projection and label-smoothed cross-entropy in one."""

import torch

from kernels.backend import choose, triton_problem
from kernels.copies import multiplied
from kernels.lm_loss.one_pass import OnePass, opaque
from kernels.lm_loss.reference import IGNORED, lm_loss_reference

# Tokens up to which a CPU keeps all logits: few rows are faster so, many in chunks, and the two
# meet between 200 and 400 in float32 and later in bf16 (bench/test_kernels.py times both).
MOST_MATERIALISED = 512


def lm_loss(
    states_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_T: torch.Tensor,
    weights_T: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """sum_t weight_t CE(states_t W^T + b, target_t) with smoothed labels, without [T, V] logits.

    A mean, or a mean over means of groups, is a choice of weights; they must not depend on what
    is trained. Under autocast the products are in its dtype, the loss is in float32.

    Args:
        states_TD: [T, D]; T may be 0.
        weight_VD: [V, D] words.
        bias_V: [V].
        targets_T: [T] int64, or -100 for a token that is not scored.
        weights_T: [T] float32.
        label_smoothing: share of a target that is spread over the vocabulary, in [0, 1).
        backend: `triton` (GPU), `torch` (chunks of tokens), `reference` (materialised) or `auto`.

    Returns:
        0-dim float32 (float64 for float64 states). On a GPU NaN where a target is no word.

    Raises:
        ValueError: shapes, dtypes, devices or targets that do not fit.
        RuntimeError: a forced backend that cannot run here.
    """
    autocast = torch.is_autocast_enabled(states_TD.device.type)
    dtype = torch.get_autocast_dtype(states_TD.device.type) if autocast else states_TD.dtype
    _check_shapes(states_TD, weight_VD, bias_V, targets_T, weights_T)
    _check_kinds(states_TD, weight_VD, bias_V, targets_T, weights_T, dtype, autocast)
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"lm_loss: label_smoothing {label_smoothing} is outside [0, 1)")
    on_cpu = states_TD.device.type == "cpu"
    strange = on_cpu and not torch.compiler.is_compiling() and _strange(targets_T, len(weight_VD))
    if strange:
        raise ValueError(f"lm_loss: a target is neither a word below {len(weight_VD)} nor -100")
    triton = "CPU" if on_cpu and backend != "triton" else triton_problem(states_TD, dtype)
    if dtype == torch.float64:
        triton = "it has no float64"
    problems = {"triton": triton, "torch": None, "reference": None}
    if on_cpu and len(states_TD) <= MOST_MATERIALISED:
        problems = {"reference": None, "torch": None, "triton": triton}
    chosen = choose("lm_loss", backend, problems, states_TD)
    tensors = (states_TD, weight_VD, bias_V, targets_T, weights_T)
    if chosen == "reference":
        words = multiplied(weight_VD, bias_V)
        return lm_loss_reference(states_TD, *words, targets_T, weights_T, label_smoothing)
    with torch.autocast(states_TD.device.type, enabled=False):
        if torch.compiler.is_compiling():
            return opaque(*tensors, label_smoothing, dtype, chosen)[0]
        needed = tuple(torch.is_grad_enabled() and t.requires_grad for t in tensors[:3])
        return OnePass.apply(*tensors, (label_smoothing, dtype, chosen, needed))


def _strange(targets: torch.Tensor, words: int) -> bool:
    """Whether one is neither a word nor ignored; waits for the device."""
    return bool((((targets < 0) & (targets != IGNORED)) | (targets >= words)).any())


def _check_shapes(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
) -> None:
    if states.ndim != 2 or weight.ndim != 2 or states.shape[1] != weight.shape[1]:
        raise ValueError(
            f"lm_loss: states {tuple(states.shape)} must be [T, D] and weight "
            f"{tuple(weight.shape)} [V, D]"
        )
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"lm_loss: bias {tuple(bias.shape)} must be [{len(weight)}]")
    for name, tensor in (("targets", targets), ("weights", weights)):
        if tensor.shape != states.shape[:1]:
            raise ValueError(f"lm_loss: {name} {tuple(tensor.shape)} must be [{len(states)}]")


def _check_kinds(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    dtype: torch.dtype,
    autocast: bool,
) -> None:
    devices = {str(tensor.device) for tensor in (states, weight, bias, targets, weights)}
    if len(devices) > 1:
        raise ValueError(f"lm_loss: inputs on different devices: {', '.join(sorted(devices))}")
    if dtype not in (torch.float32, torch.bfloat16, torch.float64):
        # Gradients of single tokens are below what float16 can hold.
        raise ValueError(f"lm_loss: {dtype} states: float32, bfloat16 and float64 are possible")
    kinds = {str(tensor.dtype) for tensor in (states, weight, bias)}
    if len(kinds) > 1 and not autocast:
        raise ValueError(f"lm_loss: {', '.join(sorted(kinds))} at once without autocast")
    if targets.dtype != torch.int64 or not weights.is_floating_point():
        raise ValueError(
            f"lm_loss: targets {targets.dtype} and weights {weights.dtype} must be "
            "int64 and floating"
        )
    if weights.requires_grad:
        raise ValueError("lm_loss: weights get no gradient; detach them")
