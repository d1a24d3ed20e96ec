"""A checkpoint as something that captions, matches and embeds pictures."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from blip_model.convert.shapes import network_of
from blip_model.generate import beam_search, nucleus
from blip_model.pair_scores import matching_logits
from blip_model.stored_products import store_products
from engine.config import ConfigError, ModelSection
from engine.data.tokenizer import open_tokenizer
from engine.encoding import Encoding
from engine.pictures import Pictures, given_pictures, is_one
from engine.progress import Progress
from engine.runtime import choose_device
from engine.weights import open_weights, start_from

log = logging.getLogger(__name__)


class LoadedBlip(Encoding):
    """A model ready to use.

    Pictures are paths, encoded bytes, Pillow's, or [H, W, 3] uint8 arrays, one or any number of
    them, or a folder, which stands for `find_pictures(folder)`. Files are opened as they are
    needed and results come in the order of what was given.
    """

    @torch.no_grad()
    def caption(
        self,
        images: Pictures,
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
        self.require("text_decoder")
        captions = []
        for states in self.states(given_pictures(images), batch_size, "captioned"):
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
    def embed_images(self, images: Pictures, *, batch_size: int = 64) -> torch.Tensor:
        """Unit vectors [N, E] that texts are compared with."""
        self.require("text_encoder")
        with self.autocast():
            batches = self.states(given_pictures(images), batch_size, "embedded")
            return torch.cat([self.model.image_feature(states) for states in batches])

    @torch.no_grad()
    def embed_texts(self, texts: str | Iterable[str], *, batch_size: int = 256) -> torch.Tensor:
        """Unit vectors [N, E] that pictures are compared with."""
        self.require("text_encoder")
        ids, mask = self.encode(texts)
        progress = Progress("embedded", "texts", len(ids), self.progress)
        features = []
        for part, part_mask in zip(ids.split(batch_size), mask.split(batch_size), strict=True):
            # Padding only as far as this batch needs it.
            longest = int(part_mask.sum(1).max())
            with self.autocast():
                states = self.model.encode_text(part[:, :longest], part_mask[:, :longest])
                features.append(self.model.text_feature(states))
            progress.add(len(part))
        return torch.cat(features)

    @torch.no_grad()
    def match(
        self, images: Pictures, texts: str | Iterable[str], *, batch_size: int = 64
    ) -> torch.Tensor:
        """Probability [N] that each picture and the text at its place belong together.

        One picture is scored with each of many texts, and one text with each of many pictures.

        Raises:
            ConfigError: another number of texts than of pictures.
        """
        self.require("text_encoder")
        ids, mask = self.encode(texts)
        pictures, one_text = given_pictures(images), isinstance(texts, str)
        if is_one(images):
            (states,) = self.states(pictures, 1, "encoded")
            parts = zip(ids.split(batch_size), mask.split(batch_size), strict=True)
            return torch.cat([self._matched(*part, states) for part in parts])
        if isinstance(pictures, list) and not one_text and len(pictures) != len(ids):
            raise ConfigError(f"{len(pictures)} pictures but {len(ids)} texts")
        found, start = [], 0
        for states in self.states(pictures, batch_size, "matched"):
            count = len(states)
            if one_text:
                found.append(self._matched(ids.expand(count, -1), mask.expand(count, -1), states))
                continue
            if start + count > len(ids):
                raise ConfigError(f"more pictures than the {len(ids)} texts")
            rows = slice(start, start + count)
            found.append(self._matched(ids[rows], mask[rows], states))
            start += count
        if not one_text and start < len(ids):
            raise ConfigError(f"{start} pictures but {len(ids)} texts")
        return torch.cat(found)

    def _matched(self, ids: torch.Tensor, mask: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Probability [R] of R texts with their R pictures, or all with a single one."""
        owned = torch.full((len(states),), len(ids) // len(states), device=self.device)
        with self.autocast():
            logits = matching_logits(self.model, ids, mask, states, owned)
        return logits.softmax(1)[:, 1]


def load(
    place: str | Path,
    *,
    device: str = "auto",
    precision: str = "fp32",
    section: ModelSection | None = None,
    progress: bool = True,
) -> LoadedBlip:
    """Open BLIP weights.

    Args:
        place: run folder or checkpoint of ours, original .pth, Hugging Face folder or hub name.
        device: `auto`, `cpu` or `cuda`.
        precision: `fp32` or `bf16`.
        section: gives the picture size and the vocabulary where it names them; everything else
            is told by the weights.
        progress: work of more than ten seconds says on stderr how far it is.

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
    tokenizer = open_tokenizer(vocabulary, config)
    return LoadedBlip(model, tokenizer, precision, progress)
