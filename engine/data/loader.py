"""From slots to batches: the same global batches for any number of ranks and workers."""

from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from blip_model.answers import Answers
from engine.config import ConfigError, DataSection, RunConfig
from engine.curriculum import CurriculumStage, stage_at
from engine.data.answers import weighted
from engine.data.augment import Augmentation
from engine.data.batch import Batch
from engine.data.bounds import bounded
from engine.data.captions import choose_caption
from engine.data.counter import Draws
from engine.data.decoders import choose_decoders, maker_of
from engine.data.device_views import DeviceViews
from engine.data.fast_view import fast_view
from engine.data.images import BadSample, decode_image
from engine.data.micro_batches import MicroBatches, micro_batch_size
from engine.data.mixture import order_of
from engine.data.open_source import open_source
from engine.data.planned_view import PlannedView, PlannedViews, plan
from engine.data.source import RawSample, Source
from engine.data.tokenizer import Tokenizer
from engine.data.workers import start_worker

SUBSTITUTES, READ_AT_ONCE = 100, 8
CROP, SUBSTITUTE, TEXT = 1, 2, 3


@dataclass(frozen=True)
class Sample:
    """One slot's content before batching: bytes of the view, or what a device makes it of;
    `max_tokens` kept of the caption."""

    image: torch.Tensor | PlannedView
    caption: str
    image_id: int
    key: str
    reason: str
    max_tokens: int
    label: int | None = None
    answers: tuple[tuple[str, float], ...] = ()


class Slots(Dataset):
    """Slot number to sample. A bad sample keeps its slot and gets a deterministic substitute.

    Attributes:
        open_source: opens what `data.train` names.
        single: whether a sample is seen by one picture, so that a device can make its view, and
            several are small enough to be read at once.
        on_device: by which decoder it does; None: the host makes all views.
    """

    open_source = staticmethod(open_source)
    single = True

    def __init__(self, config: RunConfig, source: Source) -> None:
        self.source = source
        self.seed = config.seed
        self.data = config.data
        self.order = order_of(source, config.data, config.seed)
        self.image_size = config.model.network().image_size
        self.global_batch = config.train.global_batch_size
        device = "cuda" if on_gpu(config) else "cpu"
        kind = {"single": self.single, "fast_views": config.data.fast_views}
        decoders = choose_decoders(config.data.jpeg_decoder, device, **kind)
        self.jpeg, self.on_device = decoders.host, decoders.on_device

    def __getitem__(self, slot: int) -> Sample:
        return self._sample(slot, self.source.read(self.order.of_slot(slot)))

    def __getitems__(self, slots: list[int]) -> list[Sample]:
        """Samples of many slots: some are read, then each of them is decoded.

        Reading in a row keeps its code in the processor's cache, which decoding takes for itself.
        """
        samples, at_once = [], READ_AT_ONCE if self.single else 1
        for first in range(0, len(slots), at_once):
            part = slots[first : first + at_once]
            raws = [self.source.read(self.order.of_slot(slot)) for slot in part]
            samples += [self._sample(slot, raw) for slot, raw in zip(part, raws, strict=True)]
        return samples

    def _sample(self, slot: int, raw: RawSample) -> Sample:
        reason, key, candidates = "", raw.key, None
        for _ in range(SUBSTITUTES):
            try:
                if raw.problem:
                    raise BadSample(raw.problem)
                pixels, caption = self.content(raw, slot)
            except BadSample as bad:
                reason = reason or bad.reason
                candidates = candidates or Draws(self.seed, SUBSTITUTE, slot)
                raw = self.source.read(candidates.below(len(self.source)))
                continue
            tokens = self.stage(slot).max_tokens or self.data.max_tokens
            answers = self.answers(raw, slot)
            return Sample(pixels, caption, raw.image_id, key, reason, tokens, raw.label, answers)
        hint = "; is data.image_root right?" if reason == "missing" else ""
        raise ConfigError(
            f"{SUBSTITUTES} samples in a row are bad, the first ({key}): {reason}{hint}"
        )

    def content(self, raw: RawSample, slot: int) -> tuple[torch.Tensor | PlannedView, str]:
        """Picture and caption, as the slot's counters choose and augment them, see `view`.

        Raises:
            BadSample: one of them cannot be used.
        """
        draws = Draws(self.seed, TEXT, slot)
        caption = choose_caption(raw.captions, self.data.max_words, draws)
        return self.view(raw.image, slot, Draws(self.seed, CROP, slot)), caption

    @staticmethod
    def frames(data: DataSection) -> int:
        """Pictures that a sample is seen by."""
        return 1

    def stage(self, slot: int) -> CurriculumStage:
        """What of the curriculum holds for a slot."""
        return stage_at(self.data.curriculum, slot // self.global_batch)

    def augmentation(self, slot: int) -> Augmentation:
        """To a view of the size that the slot's step takes."""
        return Augmentation.of(self.data, self.stage(slot).image_size or self.image_size)

    def view(self, content: bytes | None, slot: int, draws: Draws) -> torch.Tensor | PlannedView:
        """Encoded picture -> [3, H, H] uint8, augmented; or what the device makes that of.

        Raises:
            BadSample: it cannot be used.
        """
        augmentation, most = self.augmentation(slot), self.data.max_pixels
        if self.on_device and (planned := plan(content, most, augmentation, copy(draws))):
            return planned
        if self.data.fast_views:
            return fast_view(content, most, augmentation, draws, self.jpeg)
        return augmentation(decode_image(content, most), draws)

    def remade(self, collate: "Collate", slots: list[int], by_host: set[int]) -> Batch:
        """The batch of some slots, the views of these rows made by the host."""
        host = copy(self)
        host.on_device = None
        makers = [host if row in by_host else self for row in range(len(slots))]
        return collate([maker[slot] for maker, slot in zip(makers, slots, strict=True)])

    def answers(self, raw: RawSample, slot: int) -> tuple[tuple[str, float], ...]:
        """The sample's that the slot learns from."""
        return raw.answers

    def collate(self, *settings: Any) -> "Collate":
        """What makes batches of samples; `settings` are those of `Collate`."""
        return Collate(*settings)


@dataclass(frozen=True)
class Collate:
    """Samples to a batch; captions are tokenized here, in the worker, behind a prompt if any.

    Attributes:
        tokenizer: of captions.
        prompt: before each caption.
        bounded: bring batches to few shapes.
    """

    tokenizer: Tokenizer
    prompt: str = ""
    bounded: bool = False

    def __call__(self, samples: list[Sample]) -> Batch:
        # Alike for all samples of a step.
        max_tokens = samples[0].max_tokens
        ids, mask, capacity = *self.texts(samples, max_tokens), None
        if self.bounded:
            ids, mask, capacity = bounded(ids, mask, max_tokens)
        label, answers = self.targets(samples, max_tokens)
        images = [sample.image for sample in samples]
        return Batch(
            image=together([made for made in images if isinstance(made, torch.Tensor)]),
            input_ids=ids,
            attention_mask=mask,
            image_id=torch.tensor([sample.image_id for sample in samples]),
            key=[sample.key for sample in samples],
            reason=[sample.reason for sample in samples],
            capacity=capacity,
            label=label,
            answers=answers,
            planned=PlannedViews.of(images),
        )

    def texts(self, samples: list[Sample], max_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask, [B, L] int64 each."""
        texts = [f"{self.prompt} {sample.caption}" for sample in samples]
        return self.tokenizer.encode(texts, max_tokens)

    def targets(
        self, samples: list[Sample], max_tokens: int
    ) -> tuple[torch.Tensor | None, Answers | None]:
        """Label and answers of the batch, as far as the samples have them."""
        labels = [sample.label for sample in samples if sample.label is not None]
        answers = [sample.answers for sample in samples]
        found = weighted(answers, self.tokenizer, max_tokens, self.bounded)
        return torch.tensor(labels) if labels else None, found


def together(views: list[torch.Tensor]) -> torch.Tensor:
    """Views of one shape -> [N, ...] uint8; without any, [0]."""
    return torch.stack(views) if views else torch.empty(0, dtype=torch.uint8)


def build_loader(
    config: RunConfig,
    source: Source,
    tokenizer: Tokenizer,
    *,
    rank: int,
    world_size: int,
    start_step: int,
    stop_step: int,
    prompt: str = "",
    slots: type[Slots] = Slots,
) -> DataLoader | DeviceViews:
    """Batches of a rank from one optimizer step to another, micro-batch by micro-batch.

    Captions follow the prompt, which is not cleaned and does not count in data.max_words.

    Raises:
        ConfigError: batch sizes that do not fit the ranks.
    """
    train = config.train
    micro = micro_batch_size(config, world_size)
    micro_batches = MicroBatches(
        train.global_batch_size, micro, rank, world_size, start_step, stop_step
    )
    workers, pinned = config.data.workers, on_gpu(config)
    there = slots(config, source)
    collate = there.collate(tokenizer, prompt, train.compile or pinned)
    loader = DataLoader(
        there,
        batch_sampler=micro_batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pinned,
        prefetch_factor=4 if workers else None,
        worker_init_fn=start_worker if workers else None,
    )
    if there.on_device is None:
        return loader
    device = torch.device("cuda", torch.cuda.current_device()) if pinned else torch.device("cpu")
    remake = partial(there.remade, collate)
    maker = partial(maker_of, there.on_device, device, micro, max(1, workers))
    return DeviceViews(loader, micro_batches, remake, device, maker)


def on_gpu(config: RunConfig) -> bool:
    """Whether the run computes on a GPU."""
    return torch.cuda.is_available() and config.device != "cpu"
