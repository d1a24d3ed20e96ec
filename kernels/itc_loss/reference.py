"""The contrastive loss by its definition: both similarity matrices materialised, autograd."""

import torch


def itc_loss_reference(
    query_BE: torch.Tensor,
    momentum_query_BE: torch.Tensor,
    keys_BE: torch.Tensor,
    queue_QE: torch.Tensor,
    temperature: torch.Tensor,
    alpha: torch.Tensor | float,
    query_ids: torch.Tensor | None,
    key_ids: torch.Tensor | None,
    queue_ids: torch.Tensor | None,
    group_size: int,
) -> torch.Tensor:
    """Mean over rows of -sum_j T_ij log softmax_j(q_i k_j / tau), T = alpha p_m + (1 - alpha) y.

    p_m is the softmax of the momentum queries' similarities, y the share of each positive
    (Li et al. 2021, arXiv:2107.07651, eq. 6; the original BLIP's forward). See `itc_loss`.
    """
    all_keys = torch.cat([keys_BE, queue_QE.to(keys_BE.dtype)])
    positive, visible = _positives(query_BE, queue_QE, query_ids, key_ids, queue_ids, group_size)
    hidden = ~visible
    similarity = (query_BE @ all_keys.T / temperature).masked_fill(hidden, float("-inf"))
    with torch.no_grad():
        soft = momentum_query_BE @ all_keys.T / temperature
        soft = soft.masked_fill(hidden, float("-inf")).softmax(1)
        hard = positive / positive.sum(1, keepdim=True)
        targets = alpha * soft + (1 - alpha) * hard
    log_p = similarity.log_softmax(1).masked_fill(hidden, 0.0)
    return -(log_p * targets).sum(1).mean()


def _positives(
    query_BE: torch.Tensor,
    queue_QE: torch.Tensor,
    query_ids: torch.Tensor | None,
    key_ids: torch.Tensor | None,
    queue_ids: torch.Tensor | None,
    group_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which keys are positives of a row, as 0 and 1, and which a row sees: [B, B + Q] each."""
    rows = torch.arange(len(query_BE), device=query_BE.device)
    same_group = (rows[:, None] // group_size) == (rows[None] // group_size)
    visible = torch.cat([same_group, same_group.new_ones(len(rows), len(queue_QE))], 1)
    if query_ids is None:
        positive = torch.eye(len(rows), len(rows) + len(queue_QE), device=query_BE.device)
    else:
        positive = (query_ids[:, None] == torch.cat([key_ids, queue_ids])[None]).to(query_BE.dtype)
    return positive.to(query_BE.dtype) * visible, visible
