"""Attention of few queries to many keys in Triton: a decoded token's to its picture.

Flash kernels bring 64 queries or more to every tile of keys. With one there are only keys and
values to read, and nothing else takes time here.
"""

import torch

from kernels.backend import triton_problem

MOST, WIDEST = 16, 128


def problem(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, plain: bool, forced: bool
) -> str | None:
    """Why the kernel does not attend here, or None; `plain`: no mask, no dropout, not causal."""
    if torch.compiler.is_compiling():
        return "torch.compile knows PyTorch's own"
    if not query.is_cuda and not forced:
        return "CPU"
    if not plain:
        return "it takes no mask, no dropout and is not causal"
    if query.shape[:2] != key.shape[:2]:
        return "it brings no rows or heads to each other's number"
    kinds = {tensor.dtype for tensor in (query, key, value)}
    if len(kinds) > 1 or not kinds <= {torch.bfloat16, torch.float16}:
        return f"it takes inputs of one 16-bit kind, not {', '.join(sorted(map(str, kinds)))}"
    if query.shape[2] > MOST or query.shape[3] > WIDEST:
        return f"{query.shape[2]} queries of {query.shape[3]} are more than {MOST} of {WIDEST}"
    if torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value)):
        return "it has no backward pass"
    return triton_problem(query)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(K)) v, [B, H, L, K]; behind one another lie a row's heads."""
    from kernels.attention import triton_kernels

    return triton_kernels.attend(query, key, value)
