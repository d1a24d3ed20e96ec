"""Other people's ways to do what our kernels do, in a few lines each."""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


def chunked_contrast(
    query: torch.Tensor,
    momentum_query: torch.Tensor,
    keys: torch.Tensor,
    queue: torch.Tensor,
    temperature: torch.Tensor,
    alpha: float,
    rows: int,
) -> torch.Tensor:
    """One direction of the loss, chunk by chunk of rows, each recomputed in the backward pass.

    How open_clip's users and SigLIP's chunked loss keep the similarity matrix small: only
    `rows` x (B + Q) of it exists at a time.
    """
    everything = torch.cat([keys, queue])

    def chunk(part: torch.Tensor, part_m: torch.Tensor, start: int) -> torch.Tensor:
        with torch.no_grad():
            soft = (part_m @ everything.T / temperature).softmax(1)
            places = torch.arange(start, start + len(part), device=part.device)
            hard = F.one_hot(places, len(everything)).to(soft.dtype)
            targets = alpha * soft + (1 - alpha) * hard
        return F.cross_entropy(part @ everything.T / temperature, targets, reduction="sum")

    total = query.new_zeros(())
    for start in range(0, len(query), rows):
        parts = query[start : start + rows], momentum_query[start : start + rows]
        total = total + checkpoint(
            chunk, *parts, start, use_reentrant=False, preserve_rng_state=False
        )
    return total / len(query)


def materialised_contrast(
    query: torch.Tensor,
    momentum_query: torch.Tensor,
    keys: torch.Tensor,
    queue: torch.Tensor,
    temperature: torch.Tensor,
    alpha: float,
) -> torch.Tensor:
    """One direction of the loss in the original's own lines, in whatever precision is on."""
    everything = torch.cat([keys.t(), queue.t().clone().detach()], 1)
    with torch.no_grad():
        soft = momentum_query @ everything / temperature
        hard = torch.zeros_like(soft).fill_diagonal_(1)
        targets = alpha * F.softmax(soft, 1) + (1 - alpha) * hard
    scores = query @ everything / temperature
    return -torch.sum(F.log_softmax(scores, 1) * targets, 1).mean()


def looped_negatives(
    query: torch.Tensor, keys: torch.Tensor, temperature: torch.Tensor
) -> torch.Tensor:
    """One negative a row as the original draws it: on the host, row by row."""
    with torch.no_grad():
        weights = F.softmax(query @ keys.T / temperature, 1) + 1e-4
        weights.fill_diagonal_(0)
    drawn = [torch.multinomial(weights[row], 1).item() for row in range(len(query))]
    return torch.tensor(drawn, device=query.device)


def stacked(states: torch.Tensor, numbers: list[int]) -> torch.Tensor:
    """Rows of `states` as the original takes them: sliced one by one and stacked."""
    return torch.stack([states[number] for number in numbers])


@torch.no_grad()
def looped_ema(targets: list[torch.Tensor], sources: list[torch.Tensor], momentum: float) -> None:
    """The original's momentum update: a loop over tensors, out of place."""
    for target, source in zip(targets, sources, strict=True):
        target.data = target.data * momentum + source.data * (1 - momentum)


def repeated_ema(targets: list[torch.Tensor], sources: list[torch.Tensor], momentum: float) -> None:
    """The same work, after which targets lie where they did: a recording reads them there."""
    places = [target.data for target in targets]
    looped_ema(targets, sources, momentum)
    for target, place in zip(targets, places, strict=True):
        target.data = place


def liger_lm_loss(
    states: torch.Tensor, words: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Projection and smoothed cross-entropy in one, by liger-kernel.

    Raises:
        ImportError: it is not installed.
    """
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(label_smoothing=0.1, ignore_index=-100)
    return loss(words, states, labels, bias)


def cut_lm_loss(
    states: torch.Tensor, words: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """The same by cut-cross-entropy, which knows neither a bias nor smoothing.

    The bias becomes a feature, with seven of zeros behind it for alignment. Smoothing is
    LSE - (1 - eps) z_y - eps mean(z) = CE + eps (z_y - mean(z)), whose second term is one product
    a token. Its gradients leave nothing out (`filter_eps=None`), and are sums in the dtype of what
    they are of: in bfloat16 a tile of 128 tokens adds too little of a word's probability to a sum
    that the word's own tokens have made large, and it is lost.

    Raises:
        ImportError: it is not installed.
    """
    from cut_cross_entropy import linear_cross_entropy

    wide = F.pad(torch.cat([states, states.new_ones(len(states), 1)], 1), (0, 7))
    table = F.pad(torch.cat([words, bias[:, None]], 1), (0, 7))
    plain = linear_cross_entropy(wide, table, labels, filter_eps=None)
    above_mean = words.index_select(0, labels) - words.mean(0)
    smooth = (states * above_mean).sum(1).float() + bias[labels] - bias.mean()
    return plain + 0.1 * smooth.mean()


# Captioning's loss by others: the module they are in, how they are called, and how far from ours
# their gradients may be, to a share of the largest entry. By cut-cross-entropy a frequent word's
# bias misses the sum of its probabilities: 1 / V, beside a few tokens' 1 / T each.
LM_LOSSES = {
    "liger": ("liger_kernel", liger_lm_loss, 0.05),
    "cut": ("cut_cross_entropy", cut_lm_loss, 0.1),
}
