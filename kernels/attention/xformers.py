"""The package xformers: its memory-efficient attention, dense and block-diagonal (0.0.35)."""

import importlib
from typing import Any

import torch


def problem(query: torch.Tensor, *, masked: bool) -> str | None:
    """Why it cannot attend to these inputs here, or None; imports it."""
    if not query.is_cuda:
        return f"it needs an NVIDIA GPU and tensors are on {query.device.type}"
    if masked:
        return "it takes no key_mask here: pack the sequences (attention_packed)"
    try:
        importlib.import_module("xformers.ops")
    except (ImportError, OSError) as error:
        return f"xformers.ops cannot be imported: {error}"
    return None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """As `attention`; the package keeps heads behind tokens, [B, L, H, K].

    Raises:
        RuntimeError: the package has no kernel for these inputs, or none was built.
    """
    from xformers.ops import LowerTriangularMask

    inputs = [tensor.transpose(1, 2) for tensor in (query, key, value)]
    mask = LowerTriangularMask() if causal else None
    return _attended(inputs, mask, dropout).transpose(1, 2)


def attend_packed(
    query_THK: torch.Tensor,
    key_SHK: torch.Tensor,
    value_SHK: torch.Tensor,
    starts: tuple[torch.Tensor, torch.Tensor],
    *,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """As `attention_packed`. The package wants lengths on the host: a wait for the GPU.

    Raises:
        RuntimeError: as of `attend`.
    """
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    lengths = [start.diff().tolist() for start in starts]
    mask = BlockDiagonalMask.from_seqlens(*lengths, device=query_THK.device)
    mask = mask.make_causal() if causal else mask
    inputs = [tensor[None] for tensor in (query_THK, key_SHK, value_SHK)]
    return _attended(inputs, mask, dropout)[0]


def _attended(inputs: list[torch.Tensor], mask: Any, dropout: float) -> torch.Tensor:
    from xformers.ops import memory_efficient_attention

    try:
        return memory_efficient_attention(*inputs, attn_bias=mask, p=dropout)
    except NotImplementedError as error:
        reasons = " ".join(str(error).split())
        raise RuntimeError(f"backend 'xformers' cannot run here: {reasons}") from None
