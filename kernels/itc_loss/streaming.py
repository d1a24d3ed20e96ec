"""The contrastive loss from running sums over chunks of keys, in plain PyTorch.

With v = sum_j p_j k_j, v_m the same under the momentum softmax, k+ the mean positive key and
t = alpha v_m + (1 - alpha) k+, a row's loss is LSE - q t / tau, its gradient g = (v - t) / tau,
and the temperature's is -q g / tau. So one pass over the keys yields everything, and no
B x (B + Q) matrix outlives a chunk.
"""

from dataclasses import dataclass

import torch

CHUNK = 4096


@dataclass
class RunningSoftmax:
    """Softmax-weighted sum of keys for rows that see the keys in pieces."""

    maximum: torch.Tensor
    total: torch.Tensor
    weighted: torch.Tensor

    @classmethod
    def start(cls, rows: torch.Tensor) -> "RunningSoftmax":
        """Nothing seen yet, for rows [B, E]."""
        return cls(
            rows.new_full((len(rows), 1), float("-inf")),
            rows.new_zeros(len(rows), 1),
            torch.zeros_like(rows),
        )

    def add(self, scores: torch.Tensor, keys: torch.Tensor) -> None:
        """Take scores [B, N] of keys [N, E] in; -inf hides a key."""
        maximum = torch.maximum(self.maximum, scores.amax(1, keepdim=True))
        finite = maximum.clamp(min=torch.finfo(maximum.dtype).min)
        weights = (scores - finite).exp()
        shrink = (self.maximum - finite).exp()
        self.total = self.total * shrink + weights.sum(1, keepdim=True)
        self.weighted = self.weighted * shrink + weights @ keys
        self.maximum = maximum

    @property
    def mean(self) -> torch.Tensor:
        """sum_j p_j k_j, [B, E]."""
        return self.weighted / self.total

    @property
    def log_sum_exp(self) -> torch.Tensor:
        """[B]."""
        return (self.maximum + self.total.log()).squeeze(1)


def loss_and_gradients(
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean loss, and its gradients by the queries [B, E] and the temperature."""
    query, momentum_query = query_BE.float(), momentum_query_BE.float()
    online, soft = RunningSoftmax.start(query), RunningSoftmax.start(query)
    positive_sum, positives = torch.zeros_like(query), query.new_zeros(len(query), 1)
    rows = torch.arange(len(query), device=query.device)
    segments = ((keys_BE, key_ids, True), (queue_QE, queue_ids, False))
    for keys_of_segment, ids_of_segment, in_batch in segments:
        for start in range(0, len(keys_of_segment), CHUNK):
            keys = keys_of_segment[start : start + CHUNK].float()
            scores = query @ keys.T / temperature
            soft_scores = momentum_query @ keys.T / temperature
            columns = torch.arange(start, start + len(keys), device=query.device)
            match = None
            if query_ids is not None:
                match = query_ids[:, None] == ids_of_segment[None, start : start + CHUNK]
            elif in_batch:
                match = rows[:, None] == columns[None]
            if in_batch and group_size < len(query):
                other_group = rows[:, None] // group_size != columns[None] // group_size
                scores = scores.masked_fill(other_group, float("-inf"))
                soft_scores = soft_scores.masked_fill(other_group, float("-inf"))
                match = match & ~other_group
            online.add(scores, keys)
            soft.add(soft_scores, keys)
            if match is not None:
                positive_sum += match.to(keys.dtype) @ keys
                positives += match.sum(1, keepdim=True)
    target = alpha * soft.mean + (1 - alpha) * positive_sum / positives
    gradient = (online.mean - target) / (temperature * len(query))
    loss = online.log_sum_exp - (query * target).sum(1) / temperature
    return loss.mean(), gradient, -(query * gradient / temperature).sum()
