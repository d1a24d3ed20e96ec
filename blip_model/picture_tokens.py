"""What the blocks of an image encoder begin with: [CLS] and patches, their positions added."""

from typing import Any

import torch


def picture_tokens(
    cls_token: torch.Tensor, patches_BPD: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """As `tokens_by_definition`, in one pass over the patches where that takes three.

    Args:
        cls_token: [1, 1, D].
        patches_BPD: [B, P, D], under autocast in its dtype.
        positions: [1, 1 + P, D].

    Returns:
        [B, 1 + P, D], in the widest dtype of the three.
    """
    # A compiler puts the passes together itself, and sees no writes into a part of a tensor.
    if torch.compiler.is_compiling():
        return tokens_by_definition(cls_token, patches_BPD, positions)
    return _Tokens.apply(cls_token, patches_BPD, positions)


def tokens_by_definition(
    cls_token: torch.Tensor, patches: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """See `picture_tokens`."""
    return torch.cat([cls_token.expand(len(patches), -1, -1), patches], 1) + positions


class _Tokens(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cls_token: torch.Tensor, patches: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        count, length, width = patches.shape
        ctx.dtypes = [tensor.dtype for tensor in (cls_token, patches, positions)]
        kind = torch.promote_types(torch.promote_types(*ctx.dtypes[:2]), ctx.dtypes[2])
        tokens = patches.new_empty(count, 1 + length, width, dtype=kind)
        tokens[:, :1] = cls_token + positions[:, :1]
        torch.add(patches, positions[:, 1:], out=tokens[:, 1:])
        return tokens

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_cls, of_patches, of_positions = ctx.needs_input_grad
        kinds, first = ctx.dtypes, upstream[:, :1]
        return (
            first.sum(0, keepdim=True).to(kinds[0]) if of_cls else None,
            upstream[:, 1:].to(kinds[1]) if of_patches else None,
            upstream.sum(0, keepdim=True).to(kinds[2]) if of_positions else None,
        )
