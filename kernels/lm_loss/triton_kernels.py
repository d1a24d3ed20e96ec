"""What becomes of a chunk of logits, in Triton: losses, and the gradient written over them.

The products around it are the library's: at 768 features they take most of the time, and a
product written in Triton would be slower by more than the pass over the logits that it saves.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from kernels.lm_loss.reference import IGNORED

# Two rows a program share what they read of the bias.
BLOCK_T, BLOCK_V, WARPS = 2, 2048, 8
LOWEST = tl.constexpr(-3.0e38)
SKIPPED = tl.constexpr(IGNORED)


@triton.jit
def lm_loss_kernel(
    logits_ptr,
    bias_ptr,
    targets_ptr,
    weights_ptr,
    loss_ptr,
    rows,
    vocabulary,
    stride,
    smoothing,
    GRADIENT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """BLOCK_T rows in two passes; rows are `stride` apart and may be read up to there."""
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    t_mask = t < rows
    row_ptrs = logits_ptr + t.to(tl.int64)[:, None] * stride
    target = tl.load(targets_ptr + t, t_mask, SKIPPED)
    weight = tl.load(weights_ptr + t, t_mask, 0.0).to(tl.float32)
    weight = tl.where(target == SKIPPED, 0.0, weight)
    inside = t_mask & (target >= 0) & (target < vocabulary)
    # A target that is no word makes everything NaN: telling the host would mean to wait for it.
    weight = tl.where(inside | (target == SKIPPED), weight, float("nan"))
    # Read before anything is overwritten; the reductions below keep all threads in step.
    picked = tl.load(logits_ptr + t.to(tl.int64) * stride + target, inside, 0.0).to(tl.float32)
    picked += tl.load(bias_ptr + target, inside, 0.0).to(tl.float32)

    # Every lane keeps a running softmax of its own: one reduction at the end.
    maximum = tl.full((BLOCK_T, BLOCK_V), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_T, BLOCK_V), tl.float32)
    plain = tl.zeros((BLOCK_T, BLOCK_V), tl.float32)
    for start in range(0, vocabulary, BLOCK_V):
        v = start + tl.arange(0, BLOCK_V)
        # The stride is a multiple of 16, the vocabulary is not: only so are loads wide.
        whole, real = v[None, :] < stride, v[None, :] < vocabulary
        bias = tl.load(bias_ptr + v[None, :], whole, 0.0).to(tl.float32)
        z = tl.load(row_ptrs + v[None, :], t_mask[:, None] & whole, 0.0).to(tl.float32) + bias
        z = tl.where(real, z, LOWEST)
        larger = tl.maximum(maximum, z)
        total = total * tl.exp(maximum - larger) + tl.where(real, tl.exp(z - larger), 0.0)
        plain += tl.where(real, z, 0.0)
        maximum = larger
    highest = tl.max(maximum, 1)
    total = tl.sum(total * tl.exp(maximum - highest[:, None]), 1)
    log_sum_exp = highest + tl.log(total)
    loss = log_sum_exp - (1 - smoothing) * picked - smoothing / vocabulary * tl.sum(plain, 1)
    tl.store(loss_ptr + t, tl.where(weight == 0, 0.0, loss * weight), t_mask)

    if GRADIENT:
        for start in range(0, vocabulary, BLOCK_V):
            v = start + tl.arange(0, BLOCK_V)
            whole, real = v[None, :] < stride, v[None, :] < vocabulary
            bias = tl.load(bias_ptr + v[None, :], whole, 0.0).to(tl.float32)
            mask = t_mask[:, None] & whole
            z = tl.load(row_ptrs + v[None, :], mask, 0.0).to(tl.float32) + bias
            z = tl.where(real, z, LOWEST)
            hit = tl.where(v[None, :] == target[:, None], 1 - smoothing, 0.0)
            by_logit = tl.exp(z - log_sum_exp[:, None]) - smoothing / vocabulary - hit
            # Products read the zeros behind the last word.
            scored = real & (weight[:, None] != 0)
            by_logit = tl.where(scored, by_logit * weight[:, None], 0.0)
            tl.store(row_ptrs + v[None, :], by_logit.to(logits_ptr.dtype.element_ty), mask)


def settle(
    logits: torch.Tensor,
    bias: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    label_smoothing: float,
    gradient: bool,
) -> torch.Tensor:
    """As `chunked.settle`; the logits' rows own their storage up to the next row, where a gradient
    gets zeros."""
    rows, vocabulary = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    lm_loss_kernel[(triton.cdiv(rows, BLOCK_T),)](
        logits,
        F.pad(bias, (0, logits.stride(0) - vocabulary)),
        targets.contiguous(),
        weights.contiguous(),
        losses,
        rows,
        vocabulary,
        logits.stride(0),
        label_smoothing,
        GRADIENT=gradient,
        BLOCK_T=BLOCK_T,
        BLOCK_V=BLOCK_V,
        num_warps=WARPS,
    )
    return losses
