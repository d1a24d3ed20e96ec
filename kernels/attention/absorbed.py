"""Attention to a source through its own states: the key and value maps go to the queries' side."""

import torch


def attention_absorbed(
    query: torch.Tensor,
    source: torch.Tensor,
    key_weight: torch.Tensor,
    value_weight: torch.Tensor,
    value_bias: torch.Tensor,
) -> torch.Tensor:
    """Attention to keys and values that are linear maps of a source, without projecting it.

    With q the query of a head, x_j the states and W_k, W_v that head's rows of the maps, the score
    is q . (W_k x_j) = (W_k^T q) . x_j, and sum_j a_j (W_v x_j + b_v) = W_v (sum_j a_j x_j) + b_v as
    the weights a_j add up to one. A bias of the keys adds the same to all scores of a query and
    drops out in the softmax, so there is none here. Multi-head latent attention decodes so
    (DeepSeek-V2, arXiv:2405.04434, section 2.1.2). Where queries are few this is less work than the
    projections, and the source is all that needs to be kept. No dropout.

    Args:
        query: [B, H, L, K], of queries that are projected.
        source: [B, S, E].
        key_weight: [H, K, E].
        value_weight: [H, K, E]; on a CPU best as [H, E, K] lie, turned.
        value_bias: [H * K].

    Returns:
        [B, L, H * K], in autocast's dtype where it is on.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check(query, source, key_weight, value_weight, value_bias)
    tensors, device = (query, source, key_weight, value_weight, value_bias), query.device.type
    if torch.is_autocast_enabled(device):
        tensors = tuple(t.to(torch.get_autocast_dtype(device)) for t in tensors)
    with torch.autocast(device, enabled=False):
        return _absorbed(*tensors)


def _absorbed(
    query: torch.Tensor,
    source: torch.Tensor,
    key_weight: torch.Tensor,
    value_weight: torch.Tensor,
    value_bias: torch.Tensor,
) -> torch.Tensor:
    batch, heads, length, size = query.shape
    # Copied to lie head by head: products of strided rows take twice as long on a CPU.
    query = (query * size**-0.5).transpose(0, 1).flatten(1, 2)
    asking = query @ key_weight
    asking = asking.unflatten(1, (batch, length)).transpose(0, 1).flatten(1, 2)
    # All queries of a row, head or not, ask the same states: one product of H * L rows.
    seen = (asking @ source.transpose(1, 2)).softmax(-1) @ source
    seen = seen.unflatten(1, (heads, length)).transpose(0, 1).flatten(1, 2)
    context = seen @ value_weight.transpose(1, 2)
    return context.unflatten(1, (batch, length)).permute(1, 2, 0, 3).flatten(2) + value_bias


def _check(
    query: torch.Tensor,
    source: torch.Tensor,
    key_weight: torch.Tensor,
    value_weight: torch.Tensor,
    value_bias: torch.Tensor,
) -> None:
    fitting = query.ndim == 4 and source.ndim == 3 and len(source) == len(query)
    shape = (query.shape[1], query.shape[-1], source.shape[-1])
    if not fitting or key_weight.shape != shape or value_weight.shape != shape:
        raise ValueError(
            f"attention_absorbed: query {tuple(query.shape)}, source {tuple(source.shape)} and "
            f"weights {tuple(key_weight.shape)}, {tuple(value_weight.shape)} must be "
            "[B, H, L, K], [B, S, E] and [H, K, E]"
        )
    width = shape[0] * shape[1]
    if value_bias.shape != (width,):
        raise ValueError(
            f"attention_absorbed: value_bias {tuple(value_bias.shape)} must be [{width}]"
        )
