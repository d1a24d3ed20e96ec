"""Beam search, step by step as Hugging Face's: captions agree token for token.

Finished beams are scored by log-probability over length, the prompt's tokens not counted; only the
first `num_beams` candidates may finish. transformers 4.15, which the original pinned, counted them,
and so prefers shorter captions.
"""

from dataclasses import dataclass

import torch

from blip_model.config import BlipConfig
from kernels import beam_candidates
from kernels.token_scores import shaped

WORST = -1.0e9


@dataclass(frozen=True, kw_only=True)
class Beams:
    """How captions are searched.

    Args:
        num_beams: beams a picture.
        max_length: of a caption in tokens, prompt included.
        min_length: before [SEP] may come, prompt included.
        repetition_penalty: divides the odds of tokens that are there already; 1 does nothing.
        length_penalty: exponent of the length that scores are divided by.
    """

    num_beams: int = 3
    max_length: int = 20
    min_length: int = 5
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0

    @property
    def rows(self) -> int:
        """Captions in work a picture."""
        return self.num_beams

    def start(self, config: BlipConfig, slots: int, device: torch.device) -> "Searched":
        """Room for the beams of `slots` pictures."""
        return Searched(self, config, slots, device)


class Searched:
    """Beams in work, `num_beams` a slot, and the best that have ended.

    Args:
        how: captions are searched.
        config: of the network.
        slots: S.
        device: of the captions.
    """

    def __init__(self, how: Beams, config: BlipConfig, slots: int, device: torch.device) -> None:
        self.how, self.config, self._prompt = how, config, 0
        count = how.num_beams
        self._running = torch.full(
            (slots, count, how.max_length), config.pad_token_id, device=device
        )
        self._finished = self._running.clone()
        self._running_scores = torch.zeros(slots, count, device=device)
        self._finished_scores = torch.zeros(slots, count, device=device)
        self._is_finished = torch.zeros(slots, count, dtype=torch.bool, device=device)

    def begin(
        self, slots: torch.Tensor, prompt_ids: torch.Tensor, uniforms: torch.Tensor | None
    ) -> None:
        """New pictures in slots [N]: prompts [N, L], of one length for all; nothing is drawn."""
        self._prompt = prompt_ids.shape[1]
        for ids in (self._running, self._finished):
            ids.index_fill_(0, slots, self.config.pad_token_id)
            ids[slots, :, : self._prompt] = prompt_ids[:, None]
        # All beams begin alike: only the first may go on.
        scores = torch.full_like(self._running_scores[0], WORST)
        scores[0] = 0.0
        self._running_scores[slots] = scores
        self._finished_scores.index_fill_(0, slots, WORST)
        self._is_finished.index_fill_(0, slots, False)

    def choose(
        self, logits: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The next token of every beam.

        Args:
            logits: [S * num_beams, V].
            places: [S] of the next token.

        Returns:
            Tokens [S * num_beams]; [S * num_beams], the row that each goes on from; [S] bool,
            which slots ended.
        """
        how, count, end = self.how, self.how.num_beams, self.config.sep_token_id
        settings = {"min_length": how.min_length, "penalty": how.repetition_penalty}
        rows, at = self._running.flatten(0, 1), places.repeat_interleave(count)
        if count == 1:
            # transformers calls one beam a greedy search, which penalises logits.
            logits = shaped(logits, rows, at, end=end, **settings)
            settings["penalty"] = 1.0
        top, beams, tokens = beam_candidates(
            logits, self._running_scores, rows, at, end=end, **settings
        )
        candidates = _rows(self._running, beams)
        candidates.scatter_(2, places[:, None, None].expand(-1, 2 * count, 1), tokens[:, :, None])
        last = places + 1 >= how.max_length
        ends = (tokens == end) | last[:, None]
        scores, kept = (top + ends * WORST).topk(count, 1)
        self._running_scores.copy_(scores)
        self._running.copy_(_rows(candidates, kept))
        length = ((places + 1 - self._prompt).double() ** how.length_penalty)[:, None].float()
        self._finish(candidates, top / length, ends)
        # No running beam can become better than the worst that ended.
        possible = self._running_scores[:, :1] / length
        worst = self._finished_scores.amin(1, keepdim=True)
        closed = (possible <= torch.where(self._is_finished, worst, WORST)).all(1)
        first_row = torch.arange(len(places), device=places.device)[:, None] * count
        sources = (beams.gather(1, kept) + first_row).flatten()
        return tokens.gather(1, kept).flatten(), sources, closed | last

    def _finish(self, candidates: torch.Tensor, scores: torch.Tensor, ends: torch.Tensor) -> None:
        """Keep the best of what had ended and of the candidates that end now."""
        count = self.how.num_beams
        first = torch.arange(2 * count, device=ends.device) < count
        scores = scores + (~(ends & first)) * WORST
        merged = torch.cat([self._finished_scores, scores], 1)
        scores, best = merged.topk(count, 1)
        self._finished_scores.copy_(scores)
        self._finished.copy_(_rows(torch.cat([self._finished, candidates], 1), best))
        ended = torch.cat([self._is_finished, ends & first], 1)
        self._is_finished.copy_(ended.gather(1, best))

    def result(self, slots: torch.Tensor) -> torch.Tensor:
        """[N, 1, max_length] ids, prompt included, padded after [SEP]."""
        # A picture none of whose beams ended keeps its best running one.
        ended = self._is_finished[slots, :1, None]
        return torch.where(ended, self._finished[slots, :1], self._running[slots, :1])

    def keep(self, slots: torch.Tensor) -> None:
        """Go on with these slots [K] only, in this order."""
        self._running, self._finished = self._running[slots], self._finished[slots]
        self._running_scores = self._running_scores[slots]
        self._finished_scores = self._finished_scores[slots]
        self._is_finished = self._is_finished[slots]


def _rows(ids: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """[S, N, L] ids and [S, K] numbers of rows -> a new [S, K, L]."""
    return ids.gather(1, chosen[:, :, None].expand(-1, -1, ids.shape[2]))
