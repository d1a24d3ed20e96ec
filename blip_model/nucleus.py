"""Nucleus sampling (Holtzman et al. 2019, arXiv:1904.09751)."""

from dataclasses import dataclass

import torch

from blip_model.config import BlipConfig
from kernels import nucleus_draw
from kernels.token_scores import shaped


@dataclass(frozen=True, kw_only=True)
class Nucleus:
    """How captions are sampled.

    Args:
        top_p: tokens are drawn from the fewest that hold this probability, in (0, 1].
        top_k: and from so many at most; 0 sets no limit.
        temperature: divides the logits.
        max_length: in tokens, prompt included.
        min_length: before [SEP] may come, prompt included.
        repetition_penalty: divides the odds of tokens that are there already (the original: 1.1).
        samples: captions a picture.
    """

    top_p: float = 0.9
    top_k: int = 0
    temperature: float = 1.0
    max_length: int = 20
    min_length: int = 5
    repetition_penalty: float = 1.1
    samples: int = 1

    @property
    def rows(self) -> int:
        """Captions in work a picture."""
        return self.samples

    def start(self, config: BlipConfig, slots: int, device: torch.device) -> "Sampled":
        """Room for captions of `slots` pictures."""
        return Sampled(self, config, slots, device)


class Sampled:
    """Captions in work, `samples` a slot.

    Args:
        how: they are sampled.
        config: of the network.
        slots: S.
        device: of the captions.
    """

    def __init__(self, how: Nucleus, config: BlipConfig, slots: int, device: torch.device) -> None:
        self.how, self.config = how, config
        shape = (slots, how.samples, how.max_length)
        self._ids = torch.full(shape, config.pad_token_id, device=device)
        self._uniforms = torch.zeros(shape, dtype=torch.float64, device=device)
        self._done = torch.zeros(shape[:2], dtype=torch.bool, device=device)

    def begin(
        self, slots: torch.Tensor, prompt_ids: torch.Tensor, uniforms: torch.Tensor | None
    ) -> None:
        """New pictures in slots [N]: prompts [N, L], numbers [N, samples, max_length]."""
        if uniforms is None:
            raise ValueError("nucleus sampling needs numbers to draw by")
        self._ids.index_fill_(0, slots, self.config.pad_token_id)
        self._ids[slots, :, : prompt_ids.shape[1]] = prompt_ids[:, None]
        self._uniforms[slots] = uniforms
        self._done.index_fill_(0, slots, False)

    def choose(
        self, logits: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, None, torch.Tensor]:
        """The next token of every row.

        Args:
            logits: [S * samples, V].
            places: [S] of the next token.

        Returns:
            Tokens [S * samples]; None, as every row goes on by itself; [S] bool, which slots ended.
        """
        how, config, at = self.how, self.config, places.repeat_interleave(self.how.samples)
        ids = self._ids.flatten(0, 1)
        settings = {"min_length": how.min_length, "penalty": how.repetition_penalty}
        scores = shaped(logits, ids, at, end=config.sep_token_id, **settings)
        numbers = self._uniforms.flatten(0, 1).gather(1, at[:, None])[:, 0]
        among = {"top_p": how.top_p, "top_k": how.top_k}
        tokens = nucleus_draw(scores / how.temperature, numbers, **among)
        tokens = tokens.masked_fill(self._done.flatten(), config.pad_token_id)
        ids.scatter_(1, at[:, None], tokens[:, None])
        self._done |= (tokens == config.sep_token_id).view_as(self._done)
        return tokens, None, self._done.all(1) | (places + 1 >= how.max_length)

    def result(self, slots: torch.Tensor) -> torch.Tensor:
        """[N, samples, max_length] ids, prompt included, padded after [SEP]."""
        return self._ids[slots]

    def keep(self, slots: torch.Tensor) -> None:
        """Go on with these slots [K] only, in this order."""
        self._ids, self._uniforms, self._done = (
            part[slots] for part in (self._ids, self._uniforms, self._done)
        )
