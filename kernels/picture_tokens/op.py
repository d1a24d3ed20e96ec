"""What the blocks of an image encoder begin with: [CLS] and patches, their positions added."""

from typing import Any

import torch

from kernels.backend import choose, fusing_problem
from kernels.picture_tokens.reference import picture_tokens_reference


class _Tokens(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        cls_token: torch.Tensor,
        patches: torch.Tensor,
        positions: torch.Tensor,
        fused: bool,
    ) -> torch.Tensor:
        count, length, width = patches.shape
        ctx.dtypes = [tensor.dtype for tensor in (cls_token, patches, positions)]
        kind = torch.promote_types(torch.promote_types(*ctx.dtypes[:2]), ctx.dtypes[2])
        if fused:
            from kernels.picture_tokens import triton_kernels

            return triton_kernels.forward(cls_token, patches, positions, kind)
        tokens = patches.new_empty(count, 1 + length, width, dtype=kind)
        tokens[:, :1] = cls_token + positions[:, :1]
        torch.add(patches, positions[:, 1:], out=tokens[:, 1:])
        return tokens

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_cls, of_patches, of_positions, _ = ctx.needs_input_grad
        kinds, first = ctx.dtypes, upstream[:, :1]
        return (
            first.sum(0, keepdim=True).to(kinds[0]) if of_cls else None,
            upstream[:, 1:].to(kinds[1]) if of_patches else None,
            upstream.sum(0, keepdim=True).to(kinds[2]) if of_positions else None,
            None,
        )


def picture_tokens(
    cls_token: torch.Tensor,
    patches_BPD: torch.Tensor,
    positions: torch.Tensor,
    *,
    backend: str = "auto",
) -> torch.Tensor:
    """[CLS] before the patches, and positions added, in one pass over them where that takes three.

    Args:
        cls_token: [1, 1, D].
        patches_BPD: [B, P, D], under autocast in its dtype.
        positions: [1, 1 + P, D].
        backend: `triton` (GPU), `torch` (PyTorch's own operations, written into their places),
            `reference` or `auto`.

    Returns:
        [B, 1 + P, D], in the widest dtype of the three.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    shapes = [tuple(tensor.shape) for tensor in (cls_token, patches_BPD, positions)]
    width = shapes[1][-1]
    if patches_BPD.ndim != 3 or shapes[::2] != [(1, 1, width), (1, 1 + shapes[1][1], width)]:
        raise ValueError(
            f"picture_tokens: {shapes[0]}, {shapes[1]} and {shapes[2]} must be [1, 1, D], "
            "[B, P, D] and [1, 1 + P, D]"
        )
    # A compiler puts the passes together itself, and sees no writes into a part of a tensor.
    own = "torch.compile joins the passes itself" if torch.compiler.is_compiling() else None
    fusing = fusing_problem(patches_BPD, backend)
    problems = {"triton": fusing, "torch": own, "reference": None}
    chosen = choose("picture_tokens", backend, problems, patches_BPD)
    if chosen == "reference":
        return picture_tokens_reference(cls_token, patches_BPD, positions)
    return _Tokens.apply(cls_token, patches_BPD, positions, chosen == "triton")
