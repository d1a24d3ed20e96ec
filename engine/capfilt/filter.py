"""The filter: how well each text describes its picture."""

import math
from collections.abc import Callable

import torch

from blip_model.pair_scores import matching_logits, similarities
from engine.encoding import not_finite
from engine.inference import LoadedBlip
from kernels.transfer import values_later

# Texts that are looked at together: a picture may come with any number.
MOST = 8192
# Of each picture's texts.
Scores = list[list[tuple[float, float]]]


class PairFilter:
    """Scores by matching head and by similarity.

    Args:
        blip: weights with a text encoder.
        max_tokens: of a text, special tokens included.

    Raises:
        ConfigError: weights without a text encoder.
    """

    def __init__(self, blip: LoadedBlip, max_tokens: int) -> None:
        blip.require("text_encoder")
        self.blip, self.max_tokens = blip, min(max_tokens, blip.model.config.max_positions)

    @torch.no_grad()
    def scores(self, states: torch.Tensor, texts: list[list[str]]) -> Scores:
        """Matching probability in [0, 1] and cosine in [-1, 1] of every text with its picture.

        Args:
            states: [B, P, vision width] of the filter's own encoder.
            texts: cleaned texts of each of the B pictures; a picture may have none.

        Raises:
            ConfigError: scores that are not finite.
        """
        return self.scores_later(states, texts)()

    def scores_later(self, states: torch.Tensor, texts: list[list[str]]) -> Callable[[], Scores]:
        """What to ask for the same, when there is nothing left to do beside it on a GPU."""
        flat = [text for many in texts for text in many]
        if not flat:
            return lambda: [[] for _ in texts]
        if len(flat) > MOST:
            made = [self._of_one(states[n : n + 1], many) for n, many in enumerate(texts)]
            return lambda: made
        ids, mask = self.blip.tokenizer.encode(flat, self.max_tokens)
        given = (ids, mask, states, torch.tensor([len(many) for many in texts]))
        with self.blip.autocast():
            logits = matching_logits(self.blip.model, *given)
            cosines = similarities(self.blip.model, *given)
        values = values_later(torch.stack([logits.softmax(1)[:, 1], cosines], 1))

        def scores() -> Scores:
            both = values()
            if not all(math.isfinite(x) for pair in both for x in pair):
                raise not_finite("scores", "filter")
            rows = iter(both)
            return [[tuple(next(rows)) for _ in many] for many in texts]

        return scores

    def _of_one(self, states: torch.Tensor, texts: list[str]) -> list[tuple[float, float]]:
        """Of one picture, whose texts may be any number, in parts."""
        parts = (texts[start : start + MOST] for start in range(0, len(texts), MOST))
        return [pair for part in parts for pair in self.scores(states, [part])[0]]
