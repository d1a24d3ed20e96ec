"""Pictures and texts as a loaded model takes them: opened, cleaned, encoded, batch by batch."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch

from blip_model import Blip
from blip_model.vqa import BlipVqa
from engine.config import ConfigError
from engine.data.captions import clean_caption, valid_text
from engine.data.images import BadSample
from engine.data.picture_files import printable
from engine.data.tokenizer import Tokenizer
from engine.given import require_many
from engine.pictures import Picture, Pictures, given_pictures, view_batches
from engine.progress import Progress

log = logging.getLogger(__name__)
ANSWERS = "answering decoder"
# Of a text that count, as in training.
MAX_WORDS = 30
USES = {
    "text_encoder": "retrieve or score",
    "itm_head": "rank answers of dialogues",
    "text_decoder": "caption",
    ANSWERS: "answer questions",
    "cls_head": "judge sentences about two pictures",
}
NOT_USABLE = {"empty_caption": "it has no words", "bad_text": "it is no text"}
# Parts that no pretraining has.
TUNED = (ANSWERS, "cls_head")


class Encoding:
    """A model with its tokenizer.

    Args:
        model: in eval mode, on its device.
        tokenizer: of its vocabulary.
        precision: `fp32`, or `bf16` for matrix products.
        progress: work of more than ten seconds says on stderr how far it is.
        step: of our training after which the weights were saved, where that is known.
        prompt: that the weights were trained to caption behind, where that is known.
    """

    def __init__(
        self,
        model: Blip,
        tokenizer: Tokenizer,
        precision: str = "fp32",
        progress: bool = True,
        step: int | None = None,
        prompt: str | None = None,
    ) -> None:
        self.model, self.tokenizer, self.precision = model.eval(), tokenizer, precision
        self.progress, self.step, self._taught = progress, step, prompt
        self.device = next(model.parameters()).device

    def autocast(self) -> Any:
        """The context that forward passes run in."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def views(self, images: Pictures) -> torch.Tensor:
        """All of the pictures at once, [B, 3, H, W] on the device.

        Raises:
            ConfigError: none given, or one that cannot be used; it is named.
        """
        size = self.model.config.image_size
        return torch.cat(list(view_batches(given_pictures(images), size, 64, self.device)))

    @torch.no_grad()
    def states(
        self, pictures: list[Picture] | Iterator[Picture], batch_size: int, verb: str
    ) -> Iterator[torch.Tensor]:
        """Encoded pictures [B, P, vision width], batch by batch; they are opened as it goes.

        Args:
            pictures: see `given_pictures`.
            batch_size: pictures a forward pass.
            verb: of the line that says how far it is.

        Raises:
            ConfigError: one that cannot be used; it is named.
        """
        total = len(pictures) if isinstance(pictures, list) else None
        progress = Progress(verb, "pictures", total, self.progress)
        size = self.model.config.image_size
        for views in view_batches(pictures, size, batch_size, self.device):
            with self.autocast():
                states = self.model.encode_image(views)
            yield states
            progress.add(len(views))

    def prompt_ids(self, prompt: str, max_length: int) -> torch.Tensor:
        """What captions begin with, [1, L] on the device, [DEC] first.

        Raises:
            ConfigError: it is no text; captions of `max_length` tokens have no room for it, or the
                network has too few positions for them.
        """
        positions = self.model.config.max_positions
        if not isinstance(prompt, str):
            raise ConfigError(f"prompt is {type(prompt).__name__}: one text for all pictures")
        if self._taught is not None and self._taught.split() != prompt.split():
            log.warning(
                "captions begin with %r, which is not the prompt %r that these weights were "
                "trained behind: they caption worse; set it to that",
                prompt,
                self._taught,
            )
            self._taught = None
        ids, _ = self.tokenizer.encode([valid_text(prompt)], positions)
        ids = ids[:, :-1].to(self.device)
        ids[:, 0] = self.model.config.bos_token_id
        if not ids.shape[1] < max_length <= positions:
            raise ConfigError(
                f"max_length is {max_length}: must be above the prompt's {ids.shape[1]} tokens "
                f"and at most the network's {positions} positions"
            )
        return ids

    def require(self, part: str) -> None:
        """Refuse weights that lack a part.

        `text_encoder` with its heads scores pairs, `text_decoder` captions, `cls_head` judges what
        is said of two pictures, and the decoder of `ANSWERS` answers questions.

        Raises:
            ConfigError: they do.
        """
        answers = isinstance(self.model, BlipVqa)
        # Text encoders of other tasks come without the heads that score pairs.
        needed = "itm_head" if part == "text_encoder" else part
        there = part == ANSWERS if answers else getattr(self.model, needed, None) is not None
        if not there:
            why = "they answer questions" if answers else f"they have no {part}"
            if part in TUNED and not answers:
                why += "; fine-tuning them adds it, and with train.max_steps 0 untrained"
            raise ConfigError(f"these weights cannot {USES[part]}: {why}")

    def encode(
        self,
        texts: str | Iterable[str],
        max_words: int = MAX_WORDS,
        max_tokens: int = 35,
        clean: Callable[[Any, int], str] = clean_caption,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cleaned texts to ids and mask on the device.

        Args:
            texts: one or many.
            max_words: kept of each.
            max_tokens: kept of each, at most the network's positions.
            clean: of the texts' kind.

        Raises:
            ConfigError: none given, or one with nothing in it.
        """
        require_many(texts, "texts", "texts")
        many = [texts] if isinstance(texts, str) else list(texts)
        if not many:
            raise ConfigError("no text given")
        cleaned = []
        for number, text in enumerate(many):
            try:
                cleaned.append(clean(text, max_words))
            except BadSample as bad:
                which = f"texts[{number}], {printable(repr(text))[:60]}"
                reason = NOT_USABLE.get(bad.reason, bad.reason)
                raise ConfigError(f"a text is not usable: {which}: {reason}") from None
        limit = min(max_tokens, self.model.config.max_positions)
        ids, mask = self.tokenizer.encode(cleaned, limit)
        return ids.to(self.device), mask.to(self.device)


def refuse_not_finite(tensor: torch.Tensor, what: str) -> None:
    """Look at what a network computed; the device is waited for.

    Args:
        tensor: of it.
        what: `states`, `features` or `scores`.

    Raises:
        ConfigError: not all of it is finite.
    """
    if not tensor.isfinite().all():
        raise not_finite(what)


def not_finite(what: str, whose: str = "model") -> ConfigError:
    """The error for what a network computed and is not finite."""
    return ConfigError(f"the {whose}'s {what} are not finite: its weights are no good")
