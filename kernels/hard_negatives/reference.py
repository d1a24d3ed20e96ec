"""The weights of hard negatives by their definition."""

import torch


def negative_weights(
    query_BE: torch.Tensor,
    keys_BE: torch.Tensor,
    temperature: torch.Tensor,
    floor: float,
    ids: torch.Tensor | None,
    group_size: int,
) -> torch.Tensor:
    """softmax over the group's keys + floor; zero for matching keys: [groups, G, G] float32.

    A row without any weight draws evenly among the keys that do not match, where all of them do
    among the others of its group, and itself when the group is only itself.
    """
    size = group_size
    query = query_BE.detach().float().unflatten(0, (-1, size))
    keys = keys_BE.detach().float().unflatten(0, (-1, size))
    weights = (query @ keys.transpose(1, 2) / temperature.detach()).softmax(2) + floor
    own = torch.eye(size, dtype=torch.bool, device=query.device)
    matching = own.expand_as(weights)
    if ids is not None:
        of_group = ids.unflatten(0, (-1, size))
        matching = matching | (of_group[:, :, None] == of_group[:, None, :])
    weights = weights.masked_fill(matching, 0.0)
    others = (~own if size > 1 else own).expand_as(weights)
    even = torch.where((~matching).any(2, keepdim=True), ~matching, others)
    return torch.where(weights.sum(2, keepdim=True) > 0, weights, even.to(weights.dtype))
