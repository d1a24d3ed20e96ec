"""A checkpoint as something that captions, matches and embeds pictures."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from blip_model.convert.shapes import network_of
from blip_model.generate import beam_search, nucleus
from blip_model.pair_scores import matching_logits
from blip_model.stored_products import store_products
from engine.answering import Answerer, answers_among
from engine.attention_map import AttentionMap, attention_map
from engine.config import ConfigError, ModelSection
from engine.data.captions import clean_question
from engine.data.tokenizer import open_tokenizer
from engine.encoding import ANSWERS, Encoding
from engine.given import refuse_wrong, require_many
from engine.pictures import Picture, Pictures, given_pictures, is_one
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

        Raises:
            ConfigError: no or unusable pictures, or a setting outside its range; names it.
        """
        self.require("text_decoder")
        how = {"num_beams": num_beams, "max_length": max_length, "min_length": min_length}
        if top_p is not None:
            how["top_p"] = top_p
        refuse_wrong(**how)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ConfigError(
                f"generator is {type(generator).__name__}: must be a torch.Generator, such as "
                "torch.Generator(blip.device).manual_seed(3)"
            )
        # Before any picture is read.
        self.prompt_ids(prompt, max_length)
        captions = []
        for states in self.states(given_pictures(images), batch_size, "captioned"):
            captions += self.caption_states(states, prompt=prompt, generator=generator, **how)
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
        refuse_wrong(batch_size=batch_size)
        ids, mask = self.encode(texts)
        batch_size = int(batch_size)
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
        found = []
        for states, rows in self._paired(images, texts, len(ids), batch_size, "matched"):
            part, part_mask = ids[rows], mask[rows]
            if len(part) < len(states):
                part, part_mask = (t.expand(len(states), -1) for t in (part, part_mask))
            owned = torch.full((len(states),), len(part) // len(states), device=self.device)
            with self.autocast():
                logits = matching_logits(self.model, part, part_mask, states, owned)
            found.append(logits.softmax(1)[:, 1])
        return torch.cat(found)

    def attention_map(self, image: Picture, text: str, *, layer: int | None = None) -> AttentionMap:
        """Where matching looks for each word; see `engine.attention_map`."""
        return attention_map(self, image, text, layer)

    @torch.no_grad()
    def answer(
        self,
        images: Pictures,
        questions: str | Iterable[str],
        *,
        among: Sequence[str] | None = None,
        shortlist: int = 128,
        num_beams: int = 3,
        max_length: int = 10,
        min_length: int = 1,
        batch_size: int = 32,
    ) -> list[str]:
        """Answers to the question at each picture's place; see `match` for one and many.

        Args:
            images: one or many.
            questions: one or many.
            among: answers of which the likeliest is chosen; without, answers are written.
            shortlist: of `among`, told apart by all their tokens.
            num_beams: of written answers.
            max_length: tokens of written answers, [DEC] and [SEP] included.
            min_length: of the same.
            batch_size: questions at once.

        Raises:
            ConfigError: weights that do not answer, or another number of questions than pictures.
        """
        self.require(ANSWERS)
        how = {"num_beams": num_beams, "max_length": max_length, "min_length": min_length}
        refuse_wrong(shortlist=shortlist, **how)
        among = None if among is None else answers_among(among)
        require_many(questions, "questions", "questions")
        ids, mask = self.encode(questions, 50, clean=clean_question)
        answering = Answerer(self, among, shortlist=shortlist, **how)
        answers = []
        for states, rows in self._paired(images, questions, len(ids), batch_size, "answered"):
            count = max(len(states), len(ids[rows]))
            asked, states = (t.expand(count, *t.shape[1:]) for t in (ids[rows], states))
            with self.autocast():
                read = self.model.read_questions(asked, mask[rows].expand(count, -1), states)
                answers += answering(read)
        return answers

    def _paired(
        self, images: Pictures, texts: object, count: int, batch_size: int, verb: str
    ) -> Iterator[tuple[torch.Tensor, slice]]:
        """Encoded pictures and which texts are theirs: as many, or one side is a single one.

        Raises:
            ConfigError: another number of texts than of pictures.
        """
        refuse_wrong(batch_size=batch_size)
        pictures, one_text = given_pictures(images), isinstance(texts, str)
        if is_one(images):
            (states,) = self.states(pictures, 1, "encoded")
            for start in range(0, count, batch_size):
                yield states, slice(start, start + batch_size)
            return
        if isinstance(pictures, list) and not one_text and len(pictures) != count:
            raise ConfigError(f"{len(pictures)} pictures but {count} texts")
        start = 0
        for states in self.states(pictures, batch_size, verb):
            if not one_text and start + len(states) > count:
                raise ConfigError(f"more pictures than the {count} texts")
            yield states, slice(0, 1) if one_text else slice(start, start + len(states))
            start += len(states)
        if not one_text and start < count:
            raise ConfigError(f"{start} pictures but {count} texts")


def load(
    place: str | Path,
    *,
    device: str = "auto",
    precision: str = "fp32",
    section: ModelSection | None = None,
    progress: bool = True,
    frozen: bool = False,
) -> LoadedBlip:
    """Open BLIP weights.

    Args:
        place: run folder or checkpoint of ours, original .pth, Hugging Face folder or hub name.
        device: `auto`, `cpu`, `cuda`, or one GPU by its number, `cuda:1`.
        precision: `fp32` or `bf16`.
        section: gives the picture size and the vocabulary where it names them; everything else
            is told by the weights.
        progress: work of more than ten seconds says on stderr how far it is.
        frozen: the weights are only ever multiplied with, not trained, changed, moved or derived
            by: a CPU's lie as it multiplies with them. Those of bf16 always are.

    Raises:
        ConfigError: nothing there, weights that do not fit the network, or no such device.
    """
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"precision is {precision!r}: choose fp32 or bf16")
    device = choose_device(device)
    weights = open_weights(place)
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
    if frozen or precision == "bf16":
        store_products(model, torch.bfloat16 if precision == "bf16" else torch.float32)
    vocabulary = section.vocabulary if section else None
    tokenizer = open_tokenizer(vocabulary, config)
    return LoadedBlip(model, tokenizer, precision, progress, weights.step, weights.prompt)
