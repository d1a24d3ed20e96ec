"""The chunks' loss and gradients as autograd and `torch.compile` see them.

Autograd gets a function whose backward pass only scales. The compiler gets one operation that it
does not look into, so that it neither unrolls the chunks nor keeps their logits.
"""

from typing import Any

import torch

from kernels.copies import in_dtype
from kernels.lm_loss import chunked

Tensor = torch.Tensor
# label smoothing, dtype of the products, backend, which of the three gradients are needed.
Settings = tuple[float, torch.dtype, str, tuple[bool, bool, bool]]


def _ways(backend: str) -> tuple[chunked.Settle, bool]:
    """What settles a chunk's logits, and whether it takes even products."""
    if backend == "triton":
        from kernels.lm_loss import triton_kernels

        return triton_kernels.settle, True
    return chunked.settle, False


class OnePass(torch.autograd.Function):
    """The forward pass yields the gradients; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        weights: Tensor,
        settings: Settings,
    ) -> Tensor:
        label_smoothing, dtype, backend, needed = settings
        operands = (in_dtype(tensor, dtype) for tensor in (states, weight, bias))
        loss, found = chunked.loss_and_gradients(
            *operands, targets, weights, label_smoothing, needed, *_ways(backend)
        )
        ctx.save_for_backward(*found)
        ctx.dtypes = [tensor.dtype for tensor in (states, weight, bias)]
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [
            None if gradient is None else (gradient * upstream).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *scaled, None, None, None


@torch.library.custom_op("kernels::lm_one_pass", mutates_args=())
def opaque(
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    weights: Tensor,
    label_smoothing: float,
    dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss, and its gradients by states, weight and bias."""
    operands = (tensor.to(dtype) for tensor in (states, weight, bias))
    loss, found = chunked.loss_and_gradients(
        *operands, targets, weights, label_smoothing, (True, True, True), *_ways(backend)
    )
    return loss, *found


@opaque.register_fake
def _shapes(
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    weights: Tensor,
    label_smoothing: float,
    dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kind = torch.promote_types(dtype, torch.float32)
    return (
        states.new_empty((), dtype=kind),
        states.new_empty(states.shape, dtype=dtype),
        weight.new_empty(weight.shape, dtype=kind),
        bias.new_empty(bias.shape, dtype=kind),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.dtypes = [tensor.dtype for tensor in inputs[:3]]


def _backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    scaled = [
        (gradient * upstream).to(dtype)
        for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
    ]
    return *scaled, *([None] * 5)


opaque.register_autograd(_backward, setup_context=_keep)
