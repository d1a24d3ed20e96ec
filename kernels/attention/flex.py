"""PyTorch's FlexAttention: masks as functions, compiled into the kernel (arXiv:2412.05496)."""

from collections.abc import Callable
from functools import cache

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


def problem(inputs: tuple[torch.Tensor, ...], *, dropout: float) -> str | None:
    """Why it cannot attend to query, key and value here, or None."""
    if dropout:
        return "it has no dropout"
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    if wanted and not inputs[0].is_cuda:
        return f"it has no backward pass on {inputs[0].device.type}"
    return None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    causal: bool,
    key_mask: torch.Tensor | None,
) -> torch.Tensor:
    """As `attention`."""
    if key_mask is None and not causal:
        return _kernel(query.is_cuda)(query, key, value)
    lengths = query.shape[2], key.shape[2]
    if key_mask is None:
        return _kernel(query.is_cuda)(query, key, value, block_mask=_triangle(*lengths, key.device))

    def sees(row: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor):
        return key_mask[row, k] & ((q >= k) | (not causal))

    mask = create_block_mask(sees, len(query), None, *lengths, device=key.device)
    return _kernel(query.is_cuda)(query, key, value, block_mask=mask)


def attend_packed(
    query_THK: torch.Tensor,
    key_SHK: torch.Tensor,
    value_SHK: torch.Tensor,
    starts: tuple[torch.Tensor, torch.Tensor],
    *,
    causal: bool,
) -> torch.Tensor:
    """As `attention_packed`: one long row whose sequences do not see each other."""
    (rows, columns), (key_rows, key_columns) = (
        places(start, len(tokens))
        for start, tokens in zip(starts, (query_THK, key_SHK), strict=True)
    )

    def sees(row: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor):
        return (rows[q] == key_rows[k]) & ((columns[q] >= key_columns[k]) | (not causal))

    lengths = len(query_THK), len(key_SHK)
    mask = create_block_mask(sees, None, None, *lengths, device=query_THK.device)
    inputs = [tensor.transpose(0, 1)[None] for tensor in (query_THK, key_SHK, value_SHK)]
    return _kernel(query_THK.is_cuda)(*inputs, block_mask=mask)[0].transpose(0, 1)


def places(starts: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequence of each of `count` tokens, and the token's place in it: [count] int64 each."""
    numbers = torch.arange(len(starts) - 1, device=starts.device)
    rows = numbers.repeat_interleave(starts.diff(), output_size=count)
    return rows, torch.arange(count, device=starts.device) - starts[:-1].long()[rows]


@cache
def _kernel(compiled: bool) -> Callable[..., torch.Tensor]:
    """Compiled on a GPU; on a CPU as its plain rendering, which is there to be tested against."""
    return torch.compile(flex_attention) if compiled else flex_attention


@cache
def _triangle(queries: int, keys: int, device: torch.device):
    def sees(row: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor):
        return q >= k

    return create_block_mask(sees, None, None, queries, keys, device=device)
