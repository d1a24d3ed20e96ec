"""Self-attention of many short rows that lie packed, without padding."""

from typing import Any

import torch

from kernels.attention_rows.padded import attend_padded
from kernels.attention_rows.reference import attention_rows_reference
from kernels.backend import choose, triton_problem
from kernels.seeds import new_seed

# What one program holds in its registers.
LONGEST = {torch.float16: 64, torch.bfloat16: 64, torch.float32: 32}
WIDEST = 64
Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class _AttentionRows(torch.autograd.Function):
    """Keeps its inputs and the seed; the backward pass computes weights and mask again."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        rows: Rows,
        longest: tuple[int, int],
        causal: bool,
        dropout: float,
    ) -> torch.Tensor:
        from kernels.attention_rows import triton_kernels

        seed = new_seed(query.device) if dropout else None
        ctx.settings = {"longest": longest, "causal": causal, "dropout": dropout}
        ctx.save_for_backward(query, key, value, *rows, seed)
        return triton_kernels.forward(query, key, value, rows, seed, **ctx.settings)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from kernels.attention_rows import triton_kernels

        *tensors, seed = ctx.saved_tensors
        inputs, rows = tensors[:3], tuple(tensors[3:])
        gradients = triton_kernels.backward(upstream, *inputs, rows, seed, **ctx.settings)
        return *gradients, None, None, None, None


def attention_rows(
    query_QHK: torch.Tensor,
    key_THK: torch.Tensor,
    value_THK: torch.Tensor,
    query_first_R: torch.Tensor,
    query_length_R: torch.Tensor,
    first_R: torch.Tensor,
    length_R: torch.Tensor,
    longest: tuple[int, int],
    *,
    causal: bool = False,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Scaled dot-product attention in which row r of the queries sees row r of the keys.

    Row r of the keys are the tokens from first_R[r] on, length_R[r] of them; rows stand in order
    and do not overlap, the first begins at 0, and there may be tokens between them that belong to
    none. Likewise for queries. A query of no row yields exactly 0, and all gradients of tokens of
    no row are exactly 0.

    Args:
        query_QHK: [Q, H, K].
        key_THK: [T, H, K].
        value_THK: [T, H, K].
        query_first_R: [R] integers, where rows of the queries begin.
        query_length_R: [R] integers, how many queries each has.
        first_R: [R] integers, of the keys; the same tensor for self-attention.
        length_R: [R] integers, of the keys.
        longest: no row of the queries, of the keys is longer; on the host.
        causal: query i of a row sees its keys up to i; needs the same rows twice.
        dropout: probability of dropping an attention weight, in [0, 1), keyed by the device's
            generator.
        backend: `triton` (GPU; rows of at most 64 tokens, 32 in float32, heads at most 64 wide),
            `padded` (as rows of `attention` with a key mask), `reference` (the definition, in a
            loop) or `auto`.

    Returns:
        [Q, H, K].

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    inputs, rows = (
        [query_QHK, key_THK, value_THK],
        (query_first_R, query_length_R, first_R, length_R),
    )
    _check(*inputs, rows, longest, causal, dropout)
    kind = query_QHK.device.type
    if torch.is_autocast_enabled(kind):
        inputs = [tensor.to(torch.get_autocast_dtype(kind)) for tensor in inputs]
    problem = _triton_problem(*inputs, longest, backend)
    problems = {"triton": problem, "padded": None, "reference": None}
    chosen = choose("attention_rows", backend, problems, query_QHK)
    if chosen == "triton":
        return _AttentionRows.apply(*inputs, rows, longest, causal, dropout)
    if chosen == "padded":
        return attend_padded(*inputs, rows, longest, causal=causal, dropout=dropout)
    with torch.autocast(kind, enabled=False):
        return attention_rows_reference(*inputs, rows, causal=causal, dropout=dropout)


def _triton_problem(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    longest: tuple[int, int],
    backend: str,
) -> str | None:
    if torch.compiler.is_compiling():
        return "torch.compile joins padding with what stands around it"
    if not query.is_cuda and backend != "triton":
        return "CPU"
    kind = str(query.dtype)[6:]
    if query.dtype not in LONGEST or not query.dtype == key.dtype == value.dtype:
        return f"it takes one of float16, bfloat16 and float32, not {kind}, {str(key.dtype)[6:]}"
    if max(longest) > LONGEST[query.dtype]:
        return f"rows of {max(longest)} {kind} tokens are longer than {LONGEST[query.dtype]}"
    if query.shape[2] > WIDEST:
        return f"heads of {query.shape[2]} are wider than {WIDEST}"
    return triton_problem(query)


def _check(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: Rows,
    longest: tuple[int, int],
    causal: bool,
    dropout: float,
) -> None:
    shapes = [tuple(tensor.shape) for tensor in (query, key, value)]
    fitting = shapes[1] == shapes[2] and len(shapes[0]) == 3 and shapes[0][1:] == shapes[1][1:]
    if not fitting:
        raise ValueError(
            f"attention_rows: query {shapes[0]}, key {shapes[1]} and value {shapes[2]} must be "
            "[tokens, H, K]"
        )
    whole = all(not t.is_floating_point() and t.dtype != torch.bool for t in rows)
    if not whole or any(t.ndim != 1 or len(t) != len(rows[0]) for t in rows):
        raise ValueError("attention_rows: firsts and lengths must be four [R] tensors of integers")
    if causal and (rows[0] is not rows[2] or rows[1] is not rows[3] or longest[0] != longest[1]):
        raise ValueError("attention_rows: causal needs the same rows for queries and keys")
    if min(longest) < 1 or not 0 <= dropout < 1:
        raise ValueError(f"attention_rows: longest {longest} or dropout {dropout} out of range")
