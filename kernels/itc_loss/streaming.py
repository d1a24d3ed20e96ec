"""The contrastive loss from running sums over chunks of keys, in plain PyTorch.

With v = sum_j p_j k_j, v_m the same under the momentum softmax, k+ the mean positive key and
t = alpha v_m + (1 - alpha) k+, a row's loss is LSE - q t / tau, its gradient g = (v - t) / tau,
and the temperature's is -q g / tau. So one pass over the keys yields everything, and no
B x (B + Q) matrix outlives a chunk. Online and momentum queries are rows of one product.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

CHUNK = 4096
# Rows are filled up to a multiple: MKL multiplies many keys by 8 columns in three times as long as
# by 16, and PyTorch's reductions take other ways for numbers between 16 and 32.
COLUMNS = 16


@dataclass
class RunningSoftmax:
    """Softmax-weighted sum of keys for R rows that see the keys in pieces."""

    maximum_R: torch.Tensor
    total_R: torch.Tensor
    weighted_ER: torch.Tensor

    @classmethod
    def start(cls, rows: torch.Tensor) -> "RunningSoftmax":
        """Nothing seen yet, for rows [R, E]."""
        nothing = rows.new_zeros(len(rows))
        return cls(torch.full_like(nothing, float("-inf")), nothing, torch.zeros_like(rows.T))

    def add(self, scores_NR: torch.Tensor, keys_NE: torch.Tensor) -> None:
        """Take scores of keys in, and overwrite them; -inf hides a key."""
        maximum = torch.maximum(self.maximum_R, _largest(scores_NR))
        finite = maximum.clamp(min=torch.finfo(maximum.dtype).min)
        weights = scores_NR.sub_(finite).exp_()
        shrink = (self.maximum_R - finite).exp()
        self.total_R = self.total_R * shrink + weights.sum(0)
        self.weighted_ER = self.weighted_ER * shrink + keys_NE.T @ weights
        self.maximum_R = maximum

    @property
    def mean_RE(self) -> torch.Tensor:
        """sum_j p_j k_j."""
        return (self.weighted_ER / self.total_R).T

    @property
    def log_sum_exp_R(self) -> torch.Tensor:
        """Of the scores."""
        return self.maximum_R + self.total_R.log()


def _largest(scores_NR: torch.Tensor) -> torch.Tensor:
    """In each column; PyTorch's `amax` of 16 columns takes five times as long as its `max`."""
    return scores_NR.max(0).values if scores_NR.shape[1] == COLUMNS else scores_NR.amax(0)


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
    query, count = query_BE.float(), len(query_BE)
    rows_RE = torch.cat((query, momentum_query_BE.float()))
    rows_RE = F.pad(rows_RE / temperature, (0, 0, 0, -len(rows_RE) % COLUMNS))
    softmax = RunningSoftmax.start(rows_RE)
    positive_sum_EB, positives_B = torch.zeros_like(query.T), query.new_zeros(count)
    places = torch.arange(len(rows_RE), device=query.device)
    # Momentum queries see what their online ones see; rows that fill up see something too.
    groups_R = (places % count) // group_size
    segments = ((keys_BE, key_ids, True), (queue_QE, queue_ids, False))
    for keys_of_segment, ids_of_segment, in_batch in segments:
        for start in range(0, len(keys_of_segment), CHUNK):
            keys = keys_of_segment[start : start + CHUNK].float()
            scores = keys @ rows_RE.T
            here = torch.arange(start, start + len(keys), device=query.device)[:, None]
            match = None
            if query_ids is not None:
                match = ids_of_segment[start : start + CHUNK, None] == query_ids
            elif in_batch:
                match = here == places[:count]
            if in_batch and group_size < count:
                other_group = here // group_size != groups_R
                scores.masked_fill_(other_group, float("-inf"))
                match = match & ~other_group[:, :count]
            softmax.add(scores, keys)
            if match is not None:
                positive_sum_EB += keys.T @ match.to(keys.dtype)
                positives_B += match.sum(0)
    online, soft = softmax.mean_RE[:count], softmax.mean_RE[count : 2 * count]
    target = alpha * soft + (1 - alpha) * (positive_sum_EB / positives_B).T
    gradient = (online - target) / (temperature * count)
    loss = softmax.log_sum_exp_R[:count] - (query * target).sum(1) / temperature
    return loss.mean(), gradient, -(query * gradient / temperature).sum()
