"""Image-text contrast against momentum features, with soft targets."""

import torch

from blip_model.momentum import MomentumFeatures
from kernels import itc_loss


def contrast(
    image_feature: torch.Tensor,
    text_feature: torch.Tensor,
    momentum: MomentumFeatures,
    temperature: torch.Tensor,
    alpha: float | torch.Tensor,
    *,
    image_id: torch.Tensor | None = None,
    group_size: int | None = None,
) -> torch.Tensor:
    """Mean of both directions (arXiv:2107.07651, section 3.2).

    Args:
        image_feature: [B, E] online, unit length.
        text_feature: [B, E] online, unit length.
        momentum: features of the same batch, and the queues.
        temperature: 0-dim.
        alpha: weight of the soft targets.
        image_id: [B]; with it all texts of a picture are positives.
        group_size: rows that see each other's keys.
    """
    ids = {}
    if image_id is not None:
        ids = {"query_ids": image_id, "key_ids": image_id, "queue_ids": momentum.id_queue}
    directions = (
        (image_feature, momentum.image_feature, momentum.text_feature, momentum.text_queue),
        (text_feature, momentum.text_feature, momentum.image_feature, momentum.image_queue),
    )
    losses = [
        itc_loss(query, soft, keys, queue.T, temperature, alpha, group_size=group_size, **ids)
        for query, soft, keys, queue in directions
    ]
    return (losses[0] + losses[1]) / 2
