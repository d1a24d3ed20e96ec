"""Attention of packed rows as rows of one length with a key mask."""

import torch

from kernels.attention.op import attention


def attend_padded(
    query_QHK: torch.Tensor,
    key_THK: torch.Tensor,
    value_THK: torch.Tensor,
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
    *,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """As `attention_rows`; no wait for a GPU."""
    first, length, key_first, key_length = rows
    places, cells = _maps(first, length, longest[0], len(query_QHK))
    if key_first is first and key_length is length and longest[0] == longest[1]:
        key_cells = cells
    else:
        _, key_cells = _maps(key_first, key_length, longest[1], len(key_THK))
    columns = torch.arange(longest[1], device=length.device)
    attended = attention(
        _pad(query_QHK, cells, len(length), longest[0]),
        _pad(key_THK, key_cells, len(length), longest[1]),
        _pad(value_THK, key_cells, len(length), longest[1]),
        causal=causal,
        key_mask=columns < key_length[:, None],
        dropout=dropout,
    )
    attended = attended.transpose(1, 2).flatten(0, 1)
    # Cells without a token are written to a place behind all others, which is cut off.
    packed = attended.new_zeros(len(query_QHK) + 1, *attended.shape[1:])
    return packed.index_copy(0, places, attended)[: len(query_QHK)]


def _maps(
    first: torch.Tensor, length: torch.Tensor, longest: int, tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each cell's token [R * longest], `tokens` where there is none, and each token's cell."""
    columns = torch.arange(longest, device=first.device)
    places = torch.where(columns < length[:, None], first[:, None] + columns, tokens).flatten()
    numbers = torch.arange(len(places), device=first.device)
    cells = numbers.new_full((tokens + 1,), len(places)).scatter(0, places, numbers)[:tokens]
    return places, cells


def _pad(tokens: torch.Tensor, cells: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    """[T, H, K] -> [rows, H, length, K], zeros between; tokens of no row are cut off."""
    padded = tokens.new_zeros(rows * length + 1, *tokens.shape[1:]).index_copy(0, cells, tokens)
    return padded[:-1].unflatten(0, (rows, length)).transpose(1, 2)
