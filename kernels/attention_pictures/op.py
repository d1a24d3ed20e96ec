"""Cross-attention of packed tokens to pictures: all that look at one are one block of queries."""

from typing import Any

import torch

from kernels.attention_pictures.reference import attention_pictures_reference
from kernels.backend import choose, triton_problem
from kernels.columns import asked, bring

NAME = "attention_pictures"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
WIDEST = 64


class _AttentionPictures(torch.autograd.Function):
    """Keeps inputs, output and what was drawn; the backward pass computes weights again."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        order: torch.Tensor,
        starts: torch.Tensor,
        dropout: float,
        with_columns: bool,
    ) -> torch.Tensor:
        from kernels.attention_pictures import triton_kernels

        drawn = None
        if dropout:
            # On the device: the host never waits, and a replayed graph draws anew.
            shape, whole = (2, query.shape[1], len(query)), torch.int32
            drawn = torch.randint(-(2**31), 2**31, shape, device=query.device, dtype=whole)
        inputs = (query, key, value, order, starts, drawn)
        out, log_sum = triton_kernels.forward(*inputs, dropout)
        ctx.settings = {"dropout": dropout, "with_columns": with_columns}
        ctx.save_for_backward(out, log_sum, *inputs)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from kernels.attention_pictures import triton_backward

        gradients, columns = triton_backward.backward(upstream, *ctx.saved_tensors, **ctx.settings)
        if columns is not None:
            bring(gradients[1], columns)
        return *gradients, None, None, None, None


def by_picture(picture_T: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How `attention_pictures` finds the tokens of each picture; the host does not wait.

    Args:
        picture_T: [T] integers, the picture of each token, `count` where it looks at none.
        count: B, number of pictures.

    Returns:
        order [T] and starts [B + 1], int64: the tokens of picture b are
        order[starts[b] : starts[b + 1]], in their own order, and those of none stand behind.
    """
    # A GPU sorts eight bits of a number at a time, in several launches each.
    short = torch.int16 if count <= torch.iinfo(torch.int16).max else torch.int32
    ordered, order = torch.sort(picture_T.to(short), stable=True)
    pictures = torch.arange(count + 1, device=picture_T.device, dtype=short)
    return order, torch.searchsorted(ordered, pictures)


def attention_pictures_runs(states: torch.Tensor, width: int, backend: str = "auto") -> bool:
    """Whether a caller whose other way is padding should take `attention_pictures`.

    Args:
        states: a tensor on the device and in the dtype of the keys.
        width: K, of a head.
        backend: `auto`, `triton` or `padded`.

    Raises:
        ValueError: an unknown backend.
        RuntimeError: `triton` cannot run here.
    """
    problems = {"triton": _triton_problem(states, width, backend), "padded": None}
    return choose(NAME, backend, problems, states) == "triton"


def attention_pictures(
    query_THK: torch.Tensor,
    key_BSHK: torch.Tensor,
    value_BSHK: torch.Tensor,
    order_T: torch.Tensor,
    starts: torch.Tensor,
    *,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Scaled dot-product attention in which each token sees all S keys of one picture.

    A token of no picture yields exactly 0, and its gradient is exactly 0.

    Args:
        query_THK: [T, H, K].
        key_BSHK: [B, S, H, K].
        value_BSHK: [B, S, H, K].
        order_T: [T] integers, the tokens' numbers picture by picture, from `by_picture`.
        starts: [B + 1] integers, where those of each picture begin.
        dropout: probability of dropping an attention weight, in [0, 1), keyed by the device's
            generator.
        backend: `triton` (GPU; heads at most 64 wide), `reference` (the definition, in a loop, for
            which the host waits) or `auto`.

    Returns:
        [T, H, K].

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    inputs = [query_THK, key_BSHK, value_BSHK]
    _check(*inputs, order_T, starts, dropout)
    kind = query_THK.device.type
    if torch.is_autocast_enabled(kind):
        inputs = [tensor.to(torch.get_autocast_dtype(kind)) for tensor in inputs]
    problem = _triton_problem(inputs[0], query_THK.shape[2], backend)
    if not inputs[0].dtype == inputs[1].dtype == inputs[2].dtype:
        problem = problem or "queries, keys and values differ in their dtype"
    chosen = choose(NAME, backend, {"triton": problem, "reference": None}, query_THK)
    if chosen == "triton":
        with_columns = asked(*inputs[1:])
        return _AttentionPictures.apply(*inputs, order_T, starts, dropout, with_columns)
    with torch.autocast(kind, enabled=False):
        return attention_pictures_reference(*inputs, order_T, starts, dropout=dropout)


def _triton_problem(states: torch.Tensor, width: int, backend: str) -> str | None:
    if torch.compiler.is_compiling():
        return "torch.compile joins padding with what stands around it"
    if not states.is_cuda and backend != "triton":
        return "CPU"
    if states.dtype not in DTYPES:
        return f"it takes float16, bfloat16 and float32, not {str(states.dtype)[6:]}"
    if width > WIDEST:
        return f"heads of {width} are wider than {WIDEST}"
    return triton_problem(states)


def _check(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    order: torch.Tensor,
    starts: torch.Tensor,
    dropout: float,
) -> None:
    shapes = [tuple(tensor.shape) for tensor in (query, key, value)]
    fitting = query.ndim == 3 and key.ndim == 4 and shapes[1] == shapes[2]
    if not fitting or shapes[0][1:] != shapes[1][2:] or not shapes[1][1]:
        raise ValueError(
            f"attention_pictures: query {shapes[0]} must be [T, H, K], key {shapes[1]} and value "
            f"{shapes[2]} [B, S, H, K] with S > 0"
        )
    whole = all(not t.is_floating_point() and t.dtype != torch.bool for t in (order, starts))
    if not whole or order.shape != query.shape[:1] or starts.shape != (len(key) + 1,):
        raise ValueError(
            f"attention_pictures: order {tuple(order.shape)} and starts {tuple(starts.shape)} "
            f"must be [{len(query)}] and [{len(key) + 1}] integers"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"attention_pictures: dropout {dropout} out of range")
