"""Captioning: predict the next token."""

import torch
import torch.nn.functional as F

IGNORED = -100


def next_token_targets(
    ids: torch.Tensor, mask: torch.Tensor, prompt_length: int = 0
) -> torch.Tensor:
    """Targets [B, L - 1] of positions 0 to L - 2; padding and the prompt are ignored.

    Args:
        ids: [B, L].
        mask: [B, L].
        prompt_length: leading positions of `ids` that are not to be predicted.
    """
    targets = ids.masked_fill(mask == 0, IGNORED)
    targets[:, : max(prompt_length, 1)] = IGNORED
    return targets[:, 1:]


def language_modelling(
    logits: torch.Tensor,
    targets: torch.Tensor,
    label_smoothing: float,
    group_size: int | None = None,
) -> torch.Tensor:
    """Cross-entropy, mean over a group's tokens, then over groups.

    Args:
        logits: [B, L - 1, V] of the positions before each target.
        targets: [B, L - 1], -100 where ignored.
        label_smoothing: share of the target spread over the vocabulary.
        group_size: rows of a group; None takes all rows as one.
    """
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
        ignore_index=IGNORED,
    )
    group = group_size or len(targets)
    totals = losses.view(len(targets), -1).sum(1).view(-1, group).sum(1)
    counts = (targets != IGNORED).sum(1).view(-1, group).sum(1)
    return (totals / counts.clamp(min=1)).mean()
