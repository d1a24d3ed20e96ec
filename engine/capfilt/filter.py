"""The filter: how well each text describes its picture."""

import torch

from blip_model.pair_scores import matching_logits, similarities
from engine.config import ConfigError
from engine.inference import LoadedBlip


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
    def scores(
        self, states: torch.Tensor, texts: list[list[str]]
    ) -> list[list[tuple[float, float]]]:
        """Matching probability in [0, 1] and cosine in [-1, 1] of every text with its picture.

        Args:
            states: [B, P, vision width] of the filter's own encoder.
            texts: cleaned texts of each of the B pictures; a picture may have none.

        Raises:
            ConfigError: scores that are not finite.
        """
        flat = [text for many in texts for text in many]
        if not flat:
            return [[] for _ in texts]
        ids, mask = (x.to(self.blip.device) for x in self._encode(flat))
        counts = torch.tensor([len(many) for many in texts], device=self.blip.device)
        with self.blip.autocast():
            logits = matching_logits(self.blip.model, ids, mask, states, counts)
            cosines = similarities(self.blip.model, ids, mask, states, counts)
        both = torch.stack([logits.softmax(1)[:, 1], cosines], 1).cpu()
        if not both.isfinite().all():
            raise ConfigError("the filter's scores are not finite: its weights are no good")
        rows = iter(both.tolist())
        return [[tuple(next(rows)) for _ in many] for many in texts]

    def _encode(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.blip.tokenizer.encode(texts, self.max_tokens)
