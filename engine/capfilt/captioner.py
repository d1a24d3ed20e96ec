"""The captioner: encoded pictures to synthetic captions, each a function of seed and uid."""

import torch
import xxhash

from blip_model.generate import beam_search, nucleus
from engine.capfilt.config import CaptionSection
from engine.data.counter import Draws
from engine.inference import LoadedBlip

BITS = 32


class Captioner:
    """Captions by the run's settings.

    Args:
        blip: weights with a decoder.
        settings: of the captions.
        seed: of the sampled ones.

    Raises:
        ConfigError: weights without a decoder, or captions that they have no room for.
    """

    def __init__(self, blip: LoadedBlip, settings: CaptionSection, seed: int) -> None:
        blip.require("text_decoder")
        self.blip, self.settings, self.seed = blip, settings, seed
        self._prompt = blip.prompt_ids(settings.prompt, settings.max_length)

    @torch.no_grad()
    def captions(self, states: torch.Tensor, uids: list[str]) -> list[list[str]]:
        """`samples` captions of each picture, the prompt cut off.

        Args:
            states: [B, P, vision width] of the captioner's own encoder.
            uids: stable names of the B pictures, which the draws depend on.
        """
        settings, ids = self.settings, self._prompt.repeat(len(states), 1)
        shared = {
            "max_length": settings.max_length,
            "min_length": settings.min_length,
            "repetition_penalty": settings.penalty,
        }
        with self.blip.autocast():
            if settings.method == "beam":
                penalty = {"length_penalty": settings.length_penalty}
                beams = settings.num_beams
                rows = beam_search(
                    self.blip.model, states, ids, num_beams=beams, **shared, **penalty
                )
            else:
                rows = nucleus(
                    self.blip.model,
                    states,
                    ids,
                    top_p=settings.top_p,
                    top_k=settings.top_k,
                    temperature=settings.temperature,
                    samples=settings.samples,
                    uniforms=self._uniforms(uids).to(states.device),
                    **shared,
                ).flatten(0, 1)
        texts = self.blip.tokenizer.decode(rows[:, ids.shape[1] :])
        count = settings.samples
        return [texts[first : first + count] for first in range(0, len(texts), count)]

    def _uniforms(self, uids: list[str]) -> torch.Tensor:
        """[B, samples, max_length] float64: a number for each (seed, uid, sample, position)."""
        length, rows = self.settings.max_length, []
        for uid in uids:
            name = xxhash.xxh3_64_intdigest(uid.encode("utf-8", "surrogatepass"))
            for sample in range(self.settings.samples):
                draws = Draws(self.seed, name, sample)
                rows.append([(draws.bits() >> (64 - BITS)) / (1 << BITS) for _ in range(length)])
        return torch.tensor(rows, dtype=torch.float64).view(len(uids), -1, length)
