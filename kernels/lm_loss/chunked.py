"""The captioning loss over chunks of tokens: few logits at a time, gradients in the forward pass.

A token's loss is LSE(z) - (1 - eps) z_y - (eps / V) sum_v z_v and its gradient by the logits
softmax(z) - (1 - eps) onehot - eps / V. The tokens' weights are known beforehand, so a chunk's
logits can be overwritten by their gradient and multiplied with the states and the words at once:
three products, as with all logits kept, and no second pass. The backward pass only scales.
"""

from collections.abc import Callable

import torch

from kernels.lm_loss.reference import IGNORED

# Enough rows to fill a library product; their logits are 125 MB in bf16.
ROWS = 2048
# Rows of logits begin on 128 bytes: 30,524 is no multiple of 8, and products of unaligned rows
# take slow paths.
ALIGNED = 64
# Rows that a CPU turns into their gradient at once: the many passes over them stay in its cache.
BLOCK = 64
Settle = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float, bool], torch.Tensor
]


def loss_and_gradients(
    states_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_T: torch.Tensor,
    weights_T: torch.Tensor,
    label_smoothing: float,
    needed: tuple[bool, bool, bool],
    settle: Settle,
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """The loss, and its gradients by states, weight and bias where they are needed.

    Args:
        states_TD: in the dtype of the products, as weight and bias.
        weight_VD: rows of any stride.
        bias_V: of the vocabulary.
        targets_T: in [0, V), or -100.
        weights_T: float32.
        label_smoothing: eps.
        needed: which gradients to compute.
        settle: turns a chunk's logits into losses and, in place, into their gradient.

    Returns:
        0-dim loss, and gradients (None where not needed), all at least float32 but that of the
        states, which is in their dtype.
    """
    tokens, vocabulary = len(states_TD), len(weight_VD)
    kind = torch.promote_types(states_TD.dtype, torch.float32)
    chunks = -(-tokens // ROWS)
    rows = -(-tokens // max(chunks, 1))
    padded = -(-vocabulary // ALIGNED) * ALIGNED
    buffer = states_TD.new_empty(rows, padded)
    loss = torch.zeros((), dtype=kind, device=states_TD.device)
    by_states = torch.empty_like(states_TD) if needed[0] else None
    by_weight = torch.zeros_like(weight_VD, dtype=kind) if needed[1] and not tokens else None
    by_bias = torch.zeros_like(bias_V, dtype=kind) if needed[2] else None
    for start in range(0, tokens, max(rows, 1)):
        chunk = slice(start, min(start + rows, tokens))
        states = states_TD[chunk]
        logits = buffer[: len(states), :vocabulary]
        torch.mm(states, weight_VD.T, out=logits)
        for block in _blocks(logits):
            given = (logits[block], bias_V, targets_T[chunk][block], weights_T[chunk][block])
            loss += settle(*given, label_smoothing, any(needed)).sum()
            if by_bias is not None:
                by_bias += logits[block].sum(0, dtype=kind)
        if by_states is not None:
            torch.mm(logits, weight_VD, out=by_states[chunk])
        if needed[1]:
            product = logits.T @ states
            by_weight = product.to(kind) if by_weight is None else by_weight.add_(product)
    return loss, [by_states, by_weight, by_bias]


def _blocks(logits: torch.Tensor) -> list[slice]:
    """Rows that are settled together: on a GPU all of them."""
    size = BLOCK if logits.device.type == "cpu" else len(logits)
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def settle(
    logits: torch.Tensor,
    bias: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    label_smoothing: float,
    gradient: bool,
) -> torch.Tensor:
    """Weighted losses [rows] of logits [rows, V] without bias, which become their gradient."""
    values = logits.to(torch.promote_types(logits.dtype, torch.float32)).add_(bias)
    ignored = targets == IGNORED
    places = targets.masked_fill(ignored, 0)[:, None]
    weights = weights.masked_fill(ignored, 0)
    largest = values.amax(1, keepdim=True)
    values.sub_(largest)
    picked, mean = values.gather(1, places)[:, 0], values.mean(1)
    total = values.exp_().sum(1)
    losses = total.log() - (1 - label_smoothing) * picked - label_smoothing * mean
    if gradient:
        spread = weights * (label_smoothing / logits.shape[1])
        hit = weights * (label_smoothing - 1)
        values.mul_((weights / total)[:, None]).sub_(spread[:, None])
        logits.copy_(values.scatter_add_(1, places, hit[:, None].to(values.dtype)))
    return losses * weights
