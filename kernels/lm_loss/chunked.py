"""The captioning loss over chunks of tokens: few logits at a time, gradients in the forward pass.

A token's loss is LSE(z) - (1 - eps) z_y - (eps / V) sum_v z_v and its gradient by the logits
softmax(z) - (1 - eps) onehot - eps / V. The tokens' weights are known beforehand, so a chunk's
logits can be overwritten by their gradient and multiplied with the states and the words at once:
three products, as with all logits kept, and no second pass. The backward pass only scales.
"""

from collections.abc import Callable

import torch

from kernels.linear.op import by_weight
from kernels.lm_loss.reference import IGNORED

# Tokens at once: enough to fill a library product; their logits are 125 MB in bf16. On a GPU, where
# memory is less scarce than time, a batch's fit into one chunk: nothing is added up afterwards.
ROWS, GPU_ROWS = 2048, 4096
# Rows of logits begin on 128 bytes, and where products are `even` they end there too: those over
# 30,524 words, no multiple of 8, take a GPU's library two to three times as long.
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
    even: bool,
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
        even: multiply words up to a multiple of ALIGNED; behind the logits, `settle` writes zeros.

    Returns:
        0-dim loss, and gradients (None where not needed), all at least float32 but that of the
        states, which is in their dtype.
    """
    tokens, vocabulary = len(states_TD), len(weight_VD)
    kind = torch.promote_types(states_TD.dtype, torch.float32)
    chunks = -(-tokens // (GPU_ROWS if states_TD.is_cuda else ROWS))
    rows = -(-tokens // max(chunks, 1))
    padded = -(-vocabulary // ALIGNED) * ALIGNED
    buffer = states_TD.new_empty(rows, padded)
    words = weight_VD
    if even and padded > vocabulary:
        words = torch.cat([words, words.new_zeros(padded - vocabulary, words.shape[1])])
    loss = torch.zeros((), dtype=kind, device=states_TD.device)
    by_states = states_TD.new_empty(states_TD.shape) if needed[0] else None
    by_words = torch.zeros_like(words, dtype=kind) if needed[1] and not tokens else None
    by_bias = torch.zeros_like(bias_V, dtype=kind) if needed[2] else None
    for start in range(0, tokens, max(rows, 1)):
        chunk = slice(start, min(start + rows, tokens))
        states = states_TD[chunk]
        multiplied = buffer[: len(states), : len(words)]
        logits = multiplied[:, :vocabulary]
        torch.mm(states, words.T, out=multiplied)
        for block in _blocks(logits):
            given = (logits[block], bias_V, targets_T[chunk][block], weights_T[chunk][block])
            loss += settle(*given, label_smoothing, any(needed)).sum()
            if by_bias is not None:
                by_bias += logits[block].sum(0, dtype=kind)
        if by_states is not None:
            torch.mm(multiplied, words, out=by_states[chunk])
        if needed[1]:
            product = by_weight(multiplied, states, kind)
            by_words = product if by_words is None else by_words.add_(product)
    return loss, [by_states, None if by_words is None else by_words[:vocabulary], by_bias]


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
