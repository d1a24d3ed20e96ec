"""A checkpoint as something that captions, matches and embeds pictures."""

import logging
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from blip_model import Blip
from blip_model.convert.shapes import network_of
from blip_model.generate import beam_search, nucleus
from blip_model.stored_products import store_products
from blip_model.vqa import BlipVqa
from engine.config import ConfigError, ModelSection
from engine.data.augment import evaluation_view
from engine.data.captions import clean_caption
from engine.data.images import BadSample, decode_image, to_rgb
from engine.data.tokenizer import Tokenizer, open_tokenizer
from engine.runtime import choose_device
from engine.weights import open_weights, start_from

log = logging.getLogger(__name__)
Picture = str | Path | bytes | Image.Image | np.ndarray
MAX_PIXELS = 25_000_000
ANSWERS = "answering decoder"
USES = {
    "text_encoder": "retrieve or score",
    "text_decoder": "caption",
    ANSWERS: "answer questions",
    "cls_head": "judge sentences about two pictures",
}


class LoadedBlip:
    """A model ready to use, with its tokenizer.

    Args:
        model: in eval mode, on its device.
        tokenizer: of its vocabulary.
        precision: `fp32`, or `bf16` for matrix products.
    """

    def __init__(self, model: Blip, tokenizer: Tokenizer, precision: str = "fp32") -> None:
        self.model, self.tokenizer, self.precision = model.eval(), tokenizer, precision
        self.device = next(model.parameters()).device

    def autocast(self) -> Any:
        """The context that forward passes run in."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def views(self, images: Picture | Iterable[Picture]) -> torch.Tensor:
        """Pictures (paths, encoded bytes, PIL, or [H, W, 3] uint8 arrays) to [B, 3, H, W].

        Raises:
            ConfigError: none given, a file that is missing, or something that is no picture.
        """
        many = [images] if isinstance(images, Picture) else list(images)
        if not many:
            raise ConfigError("no picture given")
        size = self.model.config.image_size
        return torch.stack([evaluation_view(_open(one), size) for one in many]).to(self.device)

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
            raise ConfigError(f"these weights cannot {USES[part]}: {why}")

    @torch.no_grad()
    def caption(
        self,
        images: Picture | Iterable[Picture],
        *,
        prompt: str = "a picture of ",
        num_beams: int = 3,
        top_p: float | None = None,
        max_length: int = 20,
        min_length: int = 5,
        batch_size: int = 32,
        generator: torch.Generator | None = None,
    ) -> list[str]:
        """Captions, the prompt cut off.

        Args:
            images: one or many.
            prompt: that captions begin with.
            num_beams: of the search.
            top_p: samples from the nucleus instead of searching.
            max_length: tokens, prompt included.
            min_length: tokens, prompt included.
            batch_size: pictures at once.
            generator: of the samples.
        """
        captions = []
        for views in self.views(images).split(batch_size):
            with self.autocast():
                states = self.model.encode_image(views)
                captions += self.caption_states(
                    states,
                    prompt=prompt,
                    num_beams=num_beams,
                    top_p=top_p,
                    max_length=max_length,
                    min_length=min_length,
                    generator=generator,
                )
        return captions

    @torch.no_grad()
    def caption_states(
        self,
        states: torch.Tensor,
        *,
        prompt: str,
        num_beams: int,
        max_length: int,
        min_length: int,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> list[str]:
        """Captions of encoded pictures [B, P, vision width]; see `caption`."""
        self.require("text_decoder")
        ids = self.prompt_ids(prompt, max_length).repeat(len(states), 1)
        lengths = {"max_length": max_length, "min_length": min_length}
        with self.autocast():
            if top_p is None:
                rows = beam_search(self.model, states, ids, num_beams=num_beams, **lengths)
            else:
                rows = nucleus(
                    self.model, states, ids, top_p=top_p, generator=generator, **lengths
                )[:, 0]
        return self.tokenizer.decode(rows[:, ids.shape[1] :])

    def prompt_ids(self, prompt: str, max_length: int) -> torch.Tensor:
        """What captions begin with, [1, L] on the device, [DEC] first.

        Raises:
            ConfigError: captions of `max_length` tokens have no room for it, or the network has
                too few positions for them.
        """
        positions = self.model.config.max_positions
        ids, _ = self.tokenizer.encode([prompt], positions)
        ids = ids[:, :-1].to(self.device)
        ids[:, 0] = self.model.config.bos_token_id
        if not ids.shape[1] < max_length <= positions:
            raise ConfigError(
                f"max_length is {max_length}: must be above the prompt's {ids.shape[1]} tokens "
                f"and at most the network's {positions} positions"
            )
        return ids

    @torch.no_grad()
    def embed_images(self, images: Picture | Iterable[Picture]) -> torch.Tensor:
        """Unit vectors [B, E] that texts are compared with."""
        self.require("text_encoder")
        with self.autocast():
            return self.model.image_feature(self.model.encode_image(self.views(images)))

    @torch.no_grad()
    def embed_texts(self, texts: str | Iterable[str]) -> torch.Tensor:
        """Unit vectors [B, E] that pictures are compared with."""
        self.require("text_encoder")
        ids, mask = self.encode(texts)
        with self.autocast():
            return self.model.text_feature(self.model.encode_text(ids, mask))

    @torch.no_grad()
    def match(
        self, images: Picture | Iterable[Picture], texts: str | Iterable[str]
    ) -> torch.Tensor:
        """Probability [B] that each picture and the text at its place belong together."""
        self.require("text_encoder")
        ids, mask = self.encode(texts)
        with self.autocast():
            states = self.model.encode_image(self.views(images))
            if len(states) != len(ids):
                raise ConfigError(f"{len(states)} pictures but {len(ids)} texts")
            return self.model.match(ids, mask, states).softmax(1)[:, 1]

    def encode(
        self, texts: str | Iterable[str], max_words: int = 30, max_tokens: int = 35
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cleaned texts to ids and mask on the device.

        Raises:
            ConfigError: none given, or a text with nothing in it.
        """
        many = [texts] if isinstance(texts, str) else list(texts)
        if not many:
            raise ConfigError("no text given")
        try:
            cleaned = [clean_caption(text, max_words) for text in many]
        except BadSample as bad:
            raise ConfigError(f"a text is not usable: {bad.reason}") from None
        limit = min(max_tokens, self.model.config.max_positions)
        ids, mask = self.tokenizer.encode(cleaned, limit)
        return ids.to(self.device), mask.to(self.device)


def _open(picture: Picture) -> Image.Image:
    """Any picture as RGB, alike whether it comes as a file, as bytes or decoded."""
    name = str(picture) if isinstance(picture, str | Path) else f"a {type(picture).__name__}"
    try:
        if isinstance(picture, np.ndarray):
            return to_rgb(Image.fromarray(picture))
        if isinstance(picture, Image.Image):
            picture.load()
            return to_rgb(picture)
        content = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        return decode_image(content, MAX_PIXELS)
    except BadSample as bad:
        raise ConfigError(f"{name}: not a usable picture: {bad.reason}") from None
    except (OSError, TypeError, ValueError, IndexError) as error:
        # Pillow refuses arrays of other shapes and kinds in several ways.
        problem = " ".join(str(error).split())
        reason = getattr(error, "strerror", None) or f"not a usable picture: {problem}"
        raise ConfigError(f"{name}: {reason}") from None


def load(
    place: str | Path,
    *,
    device: str = "auto",
    precision: str = "fp32",
    section: ModelSection | None = None,
) -> LoadedBlip:
    """Open BLIP weights.

    Args:
        place: run folder or checkpoint of ours, original .pth, Hugging Face folder or hub name.
        device: `auto`, `cpu` or `cuda`.
        precision: `fp32` or `bf16`.
        section: gives the picture size and the vocabulary where it names them; everything else
            is told by the weights.

    Raises:
        ConfigError: nothing there, or weights that do not fit the network.
    """
    device = choose_device(device)
    weights = open_weights(str(place))
    config = weights.config
    if section is not None and section.image_size is not None:
        if section.image_size != config.image_size:
            log.warning(
                "%s: trained on pictures of %d pixels, used at %d (model.image_size)",
                place,
                config.image_size,
                section.image_size,
            )
        try:
            config = replace(config, image_size=section.image_size)
        except ValueError as error:
            raise ConfigError(f"model.image_size: {error}") from None
    model = network_of(weights.tensors, config)
    start_from(model, weights)
    model = model.to(device)
    if precision == "bf16":
        store_products(model, torch.bfloat16)
    vocabulary = section.vocabulary if section else None
    return LoadedBlip(model, open_tokenizer(vocabulary, config), precision)
