"""Captions by beam search and by nucleus sampling.

Beam search follows Hugging Face's step by step (finished beams are scored by log-probability over
length; only the first `num_beams` candidates may finish), so captions agree token for token.
"""

import torch

from blip_model.blip import Blip
from blip_model.text_cache import DecodingCache

WORST = -1.0e9
# Copying the caches pays once a quarter of the pictures is done.
COMPACT_AT = 0.75


@torch.no_grad()
def beam_search(
    model: Blip,
    image_states: torch.Tensor,
    prompt_ids: torch.Tensor,
    *,
    num_beams: int = 3,
    max_length: int = 20,
    min_length: int = 5,
    repetition_penalty: float = 1.0,
    length_penalty: float = 1.0,
) -> torch.Tensor:
    """The best caption of each picture.

    Args:
        model: with a decoder, in eval mode.
        image_states: [B, P, vision width].
        prompt_ids: [B, L], [DEC] first, no [SEP].
        num_beams: beams a picture.
        max_length: of a caption in tokens, prompt included.
        min_length: before [SEP] may come, prompt included.
        repetition_penalty: divides the odds of tokens that are there already; 1 does nothing.
        length_penalty: exponent of the length that scores are divided by.

    Returns:
        [B, max_length] ids, prompt included, padded after [SEP].
    """
    config, (count, prompt) = model.config, prompt_ids.shape
    eos, pad, device = config.sep_token_id, config.pad_token_id, prompt_ids.device
    cache = DecodingCache(model, image_states, max_length)
    logits = cache.extend(prompt_ids)
    cache.expand(num_beams)
    logits = logits.repeat_interleave(num_beams, 0)
    running = torch.full((count, num_beams, max_length), pad, device=device)
    running[:, :, :prompt] = prompt_ids[:, None]
    finished = running.clone()
    running_scores = torch.zeros(count, num_beams, device=device)
    running_scores[:, 1:] = WORST
    finished_scores = torch.full((count, num_beams), WORST, device=device)
    is_finished = torch.zeros(count, num_beams, dtype=torch.bool, device=device)
    open_ = torch.ones(count, 1, dtype=torch.bool, device=device)
    may_finish = torch.arange(2 * num_beams, device=device) < num_beams
    for length in range(prompt, max_length):
        scores = logits.log_softmax(1)
        scores = _shape(
            scores, running.flatten(0, 1)[:, :length], eos, min_length, repetition_penalty
        )
        vocabulary = scores.shape[1]
        scores = scores.view(count, -1) + running_scores.repeat_interleave(vocabulary, 1)
        top, index = scores.topk(2 * num_beams, 1)
        beams, tokens = index // vocabulary, index % vocabulary
        candidates = running.gather(1, beams[:, :, None].expand(-1, -1, max_length)).clone()
        candidates[:, :, length] = tokens
        ends = (tokens == eos) | (length + 1 >= max_length)
        running_scores, kept = (top + ends * WORST).topk(num_beams, 1)
        running = candidates.gather(1, kept[:, :, None].expand(-1, -1, max_length))
        sources = beams.gather(1, kept)
        ended = top / (length + 1 - prompt) ** length_penalty
        ended = ended + (~open_) * WORST + (~(ends & may_finish)) * WORST
        merged = torch.cat([finished_scores, ended], 1)
        finished_scores, best = merged.topk(num_beams, 1)
        pool = torch.cat([finished, candidates], 1)
        finished = pool.gather(1, best[:, :, None].expand(-1, -1, max_length))
        is_finished = torch.cat([is_finished, ends & may_finish], 1).gather(1, best)
        possible = running_scores[:, :1] / (length + 1 - prompt) ** length_penalty
        worst = torch.where(is_finished, finished_scores.amin(1, keepdim=True), WORST)
        open_ = open_ & (possible > worst).any(1, keepdim=True)
        if not open_.any() or ends.all():
            break
        first_row = torch.arange(count, device=device)[:, None] * num_beams
        cache.reorder((sources + first_row).flatten())
        logits = cache.extend(running[:, :, length].reshape(-1, 1))
    # A picture none of whose beams ended keeps its best running one.
    return torch.where(is_finished[:, :1], finished[:, 0], running[:, 0])


@torch.no_grad()
def nucleus(
    model: Blip,
    image_states: torch.Tensor,
    prompt_ids: torch.Tensor,
    *,
    top_p: float = 0.9,
    top_k: int = 0,
    temperature: float = 1.0,
    max_length: int = 20,
    min_length: int = 5,
    repetition_penalty: float = 1.1,
    samples: int = 1,
    generator: torch.Generator | None = None,
    uniforms: torch.Tensor | None = None,
    compact: bool = True,
) -> torch.Tensor:
    """Sampled captions (Holtzman et al. 2019, arXiv:1904.09751).

    Args:
        model: with a decoder, in eval mode.
        image_states: [B, P, vision width].
        prompt_ids: [B, L], [DEC] first, no [SEP].
        top_p: tokens are drawn from the fewest that hold this probability, in (0, 1].
        top_k: and from so many at most; 0 sets no limit.
        temperature: divides the logits.
        max_length: in tokens, prompt included.
        min_length: before [SEP] may come, prompt included.
        repetition_penalty: divides the odds of tokens that are there already (the original: 1.1).
        samples: captions a picture.
        generator: of the draws.
        uniforms: [B, samples, max_length] float64 in [0, 1) to draw by instead, so that a caption
            depends on its own numbers alone, whatever else is in the batch.
        compact: take pictures whose captions have all ended out of the batch.

    Returns:
        [B, samples, max_length] ids, prompt included, padded after [SEP].
    """
    config, (count, prompt) = model.config, prompt_ids.shape
    eos, pad = config.sep_token_id, config.pad_token_id
    cache = DecodingCache(model, image_states, max_length)
    logits = cache.extend(prompt_ids)
    cache.expand(samples)
    logits = logits.repeat_interleave(samples, 0)
    rows = torch.full((count * samples, max_length), pad, device=prompt_ids.device)
    rows[:, :prompt] = prompt_ids.repeat_interleave(samples, 0)
    done = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    held = torch.arange(len(rows), device=rows.device)
    for length in range(prompt, max_length):
        shaped = _shape(logits, rows[held, :length], eos, min_length, repetition_penalty)
        probabilities = nucleus_probabilities(shaped / temperature, top_p, top_k)
        if uniforms is None:
            tokens = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        else:
            tokens = inverse_draw(probabilities, uniforms.flatten(0, 1)[held, length])
        tokens = tokens.masked_fill(done[held], pad)
        rows[held, length] = tokens
        done[held] |= tokens == eos
        open_ = ~done[held].view(-1, samples).all(1)
        going = int(open_.sum())
        if not going or length + 1 == max_length:
            break
        if compact and going <= COMPACT_AT * len(open_):
            pictures = open_.nonzero()[:, 0]
            cache.keep(pictures)
            held = held.view(-1, samples)[pictures].flatten()
        logits = cache.extend(rows[held, length, None])
    return rows.view(count, samples, max_length)


def inverse_draw(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The token [N] at which the distribution function of [N, V] first exceeds a number [N].

    Args:
        probabilities: non-negative; those of a row need not add up to one.
        uniforms: float64 in [0, 1), at most 1 - 2**-32.
    """
    below = probabilities.double().cumsum(1)
    return torch.searchsorted(below, uniforms[:, None] * below[:, -1:], right=True)[:, 0]


def nucleus_probabilities(logits: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    """Probabilities [N, V] restricted to the nucleus: the fewest tokens that hold `top_p`."""
    # The k best come in order: with a limit nothing else needs sorting.
    count = min(top_k, logits.shape[1]) if top_k else logits.shape[1]
    best, index = logits.topk(count, 1) if top_k else logits.sort(1, descending=True)
    ordered = best.softmax(1)
    before = ordered.cumsum(1) - ordered
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    kept = torch.zeros_like(logits).scatter(1, index, ordered)
    return kept / kept.sum(1, keepdim=True)


def _shape(
    scores: torch.Tensor, ids: torch.Tensor, eos: int, min_length: int, penalty: float
) -> torch.Tensor:
    """Penalise tokens that are there already, and forbid the end before `min_length`."""
    if penalty != 1.0:
        there = scores.gather(1, ids)
        there = torch.where(there < 0, there * penalty, there / penalty)
        scores = scores.scatter(1, ids, there)
    if ids.shape[1] < min_length:
        scores = scores.index_fill(1, torch.tensor([eos], device=scores.device), float("-inf"))
    return scores
