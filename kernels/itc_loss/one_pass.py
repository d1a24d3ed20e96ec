"""Loss and gradients of one pass over the keys, as autograd and `torch.compile` see them.

Autograd gets a function whose backward pass only scales. The compiler gets one operation that it
does not look into, so kernels and chunks stay as they are.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from kernels.itc_loss import streaming

Tensor = torch.Tensor


def loss_and_gradients(backend: str, dtype: torch.dtype) -> Callable[..., tuple[Tensor, ...]]:
    """The backend's function; `dtype` is that of a GPU's products."""
    if backend == "triton":
        from kernels.itc_loss import triton_kernels

        return partial(triton_kernels.loss_and_gradients, dtype=dtype)
    if backend == "triton_gemm":
        from kernels.itc_loss import triton_gemm

        return partial(triton_gemm.loss_and_gradients, dtype=dtype)
    return streaming.loss_and_gradients


class OnePass(torch.autograd.Function):
    """The forward pass yields the gradients; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, temperature: Tensor, one_pass: Any, *inputs: Any
    ) -> torch.Tensor:
        loss, by_query, by_temperature = one_pass(
            query, inputs[0], *inputs[1:3], temperature, *inputs[3:]
        )
        ctx.save_for_backward(by_query, by_temperature)
        ctx.dtype = query.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return *_scaled(ctx, upstream), *([None] * 9)


@torch.library.custom_op("kernels::itc_one_pass", mutates_args=())
def opaque(
    query: Tensor,
    temperature: Tensor,
    momentum_query: Tensor,
    keys: Tensor,
    queue: Tensor,
    alpha: Tensor,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    queue_ids: Tensor | None,
    group_size: int,
    backend: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean loss, and its gradients by the queries and the temperature."""
    return loss_and_gradients(backend, dtype)(
        query, momentum_query, keys, queue, temperature, alpha,
        query_ids, key_ids, queue_ids, group_size,
    )  # fmt: skip


@opaque.register_fake
def _shapes(query: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    number = query.new_empty((), dtype=torch.float32)
    return number, query.new_empty(query.shape, dtype=torch.float32), torch.empty_like(number)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.dtype = inputs[0].dtype


def _backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *_scaled(ctx, upstream), *([None] * 10)


opaque.register_autograd(_backward, setup_context=_keep)


def _scaled(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
    by_query, by_temperature = ctx.saved_tensors
    return (by_query * upstream).to(ctx.dtype), by_temperature * upstream
