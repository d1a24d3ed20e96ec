"""The captioner: encoded pictures to synthetic captions, each a function of seed and uid."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import xxhash

from blip_model.beams import Beams
from blip_model.nucleus import Nucleus
from blip_model.slots import caption_groups
from blip_model.waiting import Encoded
from engine.capfilt.config import CaptionSection
from engine.data.counter import first_bits, key_of
from engine.given import refuse_wrong
from engine.inference import LoadedBlip
from engine.ranges import WRITING
from kernels.transfer import sent

BITS = 32
# Encoded pictures [B, P, vision width] and their uids.
Group = tuple[torch.Tensor, list[str]]


class Captioner:
    """Captions by the run's settings.

    Args:
        blip: weights with a decoder.
        settings: of the captions.
        seed: of the sampled ones.

    Raises:
        ConfigError: weights without a decoder, captions that they have no room for, or a setting
            outside its range.
    """

    def __init__(self, blip: LoadedBlip, settings: CaptionSection, seed: int) -> None:
        blip.require("text_decoder")
        refuse_wrong(**{name: settings.resolved()[name] for name in WRITING})
        self.blip, self.settings, self.seed = blip, settings, seed
        self._prompt = blip.prompt_ids(settings.prompt, settings.max_length)

    def captions(
        self,
        groups: Iterable[Group],
        slots: int,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Iterator[list[list[str]]]:
        """`samples` captions of each picture, the prompt cut off; runs in the caller's autocast.

        A picture whose captions have ended makes room for one of the next group, so that as many
        as there are slots are always in work.

        Args:
            groups: states of the captioner's own encoder, and stable names of the pictures, which
                the draws depend on.
            slots: pictures at once.
            meanwhile: as in `caption_groups`.

        Yields:
            Captions of each picture of a group, in the order of the groups.
        """
        waiting = (self._encoded(*group) for group in groups)
        how, model = self._how(), self.blip.model
        for rows in caption_groups(model, waiting, how, slots, meanwhile=meanwhile):
            texts = self.blip.tokenizer.decode(rows[:, :, self._prompt.shape[1] :].flatten(0, 1))
            count = self.settings.samples
            yield [texts[first : first + count] for first in range(0, len(texts), count)]

    def _how(self) -> Nucleus | Beams:
        settings = self.settings
        shared = {
            "max_length": settings.max_length,
            "min_length": settings.min_length,
            "repetition_penalty": settings.penalty,
        }
        if settings.method == "beam":
            return Beams(
                num_beams=settings.num_beams, length_penalty=settings.length_penalty, **shared
            )
        return Nucleus(
            top_p=settings.top_p,
            top_k=settings.top_k,
            temperature=settings.temperature,
            samples=settings.samples,
            **shared,
        )

    def _encoded(self, states: torch.Tensor, uids: list[str]) -> Encoded:
        uniforms = None
        if self.settings.method == "nucleus":
            uniforms = sent(self._uniforms(uids), states.device)
        return Encoded(states, self._prompt.expand(len(states), -1), uniforms)

    def _uniforms(self, uids: list[str]) -> torch.Tensor:
        """[B, samples, max_length] float64: a number for each (seed, uid, sample, position)."""
        names = [xxhash.xxh3_64_intdigest(uid.encode("utf-8", "surrogatepass")) for uid in uids]
        samples, length = range(self.settings.samples), self.settings.max_length
        keys = [key_of(self.seed, name, sample) for name in names for sample in samples]
        numbers = (first_bits(keys, length) >> np.uint64(64 - BITS)) / (1 << BITS)
        return torch.from_numpy(numbers).view(len(uids), -1, length)
