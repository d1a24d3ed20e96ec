"""Attention of sequences without padding, the tokens of all one after the other."""

import torch

from kernels.attention import flash_attn, flex, sdpa, xformers
from kernels.attention.reference import attention_packed_reference
from kernels.attention_rows.padded import attend_padded
from kernels.backend import choose

FORCED = ("sdpa_flash", *flash_attn.PACKAGES, "xformers", "flex", "reference")


def attention_packed(
    query_THK: torch.Tensor,
    key_SHK: torch.Tensor,
    value_SHK: torch.Tensor,
    starts: tuple[torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
    *,
    causal: bool = False,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Scaled dot-product attention in which sequence i of the queries sees sequence i of the keys.

    Args:
        query_THK: [T, H, K] of N sequences.
        key_SHK: [S, H, K].
        value_SHK: [S, H, K].
        starts: where sequences of the queries and of the keys begin and the last one ends,
            [N + 1] int32 each (`cu_seqlens`); the same tensor twice for self-attention.
        longest: no sequence of the queries, of the keys is longer; on the host.
        causal: a token sees keys up to its own place; needs the same starts twice.
        dropout: probability of dropping an attention weight, in [0, 1).
        backend: `auto`; `padded` (as rows of `attention` with a key mask); `sdpa_flash` (PyTorch's
            kernel for packed sequences); the packages `flash_attn_2`, `flash_attn_3`,
            `flash_attn_4` and `xformers`; `flex`; `reference` (the definition, in a loop).

    Returns:
        [T, H, K].

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    _check(query_THK, key_SHK, value_SHK, starts, causal)
    inputs = (query_THK, key_SHK, value_SHK)
    problems = dict.fromkeys(("padded", *FORCED))
    if backend in FORCED:
        problems[backend] = _problem(backend, inputs, dropout)
    chosen = choose("attention_packed", backend, problems, query_THK)
    if chosen == "sdpa_flash":
        return sdpa.attend_packed(*inputs, starts, longest, causal=causal)
    if chosen in flash_attn.PACKAGES:
        settings = {"causal": causal, "dropout": dropout}
        return flash_attn.attend_packed(chosen, *inputs, starts, longest, **settings)
    if chosen == "xformers":
        return xformers.attend_packed(*inputs, starts, causal=causal, dropout=dropout)
    if chosen == "flex":
        return flex.attend_packed(*inputs, starts, causal=causal)
    if chosen == "reference":
        with torch.autocast(query_THK.device.type, enabled=False):
            return attention_packed_reference(*inputs, *starts, causal, dropout)
    return _padded(*inputs, starts, longest, causal, dropout)


def _padded(
    query_THK: torch.Tensor,
    key_SHK: torch.Tensor,
    value_SHK: torch.Tensor,
    starts: tuple[torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """As rows of the longest length; no wait for a GPU."""
    same = starts[0] is starts[1]
    asking, answering = ((start[:-1], start.diff()) for start in starts)
    rows = (*asking, *(asking if same else answering))
    settings = {"causal": causal, "dropout": dropout}
    return attend_padded(query_THK, key_SHK, value_SHK, rows, longest, **settings)


def _problem(name: str, inputs: tuple[torch.Tensor, ...], dropout: float) -> str | None:
    """Why a backend cannot run. Asked of a forced one only: the answer imports its package."""
    if name == "sdpa_flash":
        return sdpa.packed_problem(inputs[0], dropout)
    if name in flash_attn.PACKAGES:
        return flash_attn.problem(name, inputs[0], masked=False, dropout=dropout)
    if name == "xformers":
        return xformers.problem(inputs[0], masked=False)
    return flex.problem(inputs, dropout=dropout) if name == "flex" else None


def _check(
    query_THK: torch.Tensor,
    key_SHK: torch.Tensor,
    value_SHK: torch.Tensor,
    starts: tuple[torch.Tensor, torch.Tensor],
    causal: bool,
) -> None:
    shapes = [tuple(tensor.shape) for tensor in (query_THK, key_SHK, value_SHK)]
    fitting = shapes[1] == shapes[2] and len(shapes[0]) == 3 and shapes[0][1:] == shapes[1][1:]
    if not fitting:
        raise ValueError(
            f"attention_packed: query {shapes[0]}, key {shapes[1]} and value {shapes[2]} must be "
            "[tokens, H, K]"
        )
    if any(start.dtype != torch.int32 for start in starts) or len({len(s) for s in starts}) > 1:
        raise ValueError("attention_packed: starts must be two int32 tensors of the same length")
    if causal and starts[0] is not starts[1]:
        raise ValueError("attention_packed: causal needs the same starts for queries and keys")
