"""From slots to batches: the same global batches for any number of ranks and workers."""

import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from blip_model.answers import Answers
from engine.config import ConfigError, DataSection, RunConfig
from engine.curriculum import CurriculumStage, stage_at
from engine.data.answers import weighted
from engine.data.augment import Augmentation, normalised
from engine.data.batch import Batch
from engine.data.bounds import bounded
from engine.data.captions import choose_caption
from engine.data.counter import Draws
from engine.data.fast_view import fast_view
from engine.data.images import BadSample, decode_image
from engine.data.jpeg import jpeg_decoder
from engine.data.mixture import order_of
from engine.data.open_source import open_source
from engine.data.source import RawSample, Source
from engine.data.tokenizer import Tokenizer

SUBSTITUTES = 100
CROP, SUBSTITUTE, TEXT = 1, 2, 3
LEFT = (EOFError, ConnectionError)


@dataclass(frozen=True)
class Sample:
    """One slot's content before batching: bytes of the view; `max_tokens` kept of the caption."""

    image: torch.Tensor
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
    """

    open_source = staticmethod(open_source)

    def __init__(self, config: RunConfig, source: Source) -> None:
        self.source = source
        self.seed = config.seed
        self.data = config.data
        self.order = order_of(source, config.data, config.seed)
        self.image_size = config.model.network().image_size
        self.global_batch = config.train.global_batch_size
        self.jpeg = jpeg_decoder(config.data.jpeg_decoder)

    def __getitem__(self, slot: int) -> Sample:
        number, reason, key = self.order.of_slot(slot), "", None
        candidates = Draws(self.seed, SUBSTITUTE, slot)
        for _ in range(SUBSTITUTES):
            raw = self.source.read(number)
            key = key or raw.key
            try:
                if raw.problem:
                    raise BadSample(raw.problem)
                pixels, caption = self.content(raw, slot)
            except BadSample as bad:
                reason = reason or bad.reason
                number = candidates.below(len(self.source))
                continue
            tokens = self.stage(slot).max_tokens or self.data.max_tokens
            answers = self.answers(raw, slot)
            return Sample(pixels, caption, raw.image_id, key, reason, tokens, raw.label, answers)
        hint = "; is data.image_root right?" if reason == "missing" else ""
        raise ConfigError(
            f"{SUBSTITUTES} samples in a row are bad, the first ({key}): {reason}{hint}"
        )

    def content(self, raw: RawSample, slot: int) -> tuple[torch.Tensor, str]:
        """Picture [3, H, H] uint8 and caption, as the slot's counters choose and augment them.

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

    def view(self, content: bytes | None, slot: int, draws: Draws) -> torch.Tensor:
        """Encoded picture -> [3, H, H] uint8, augmented.

        Raises:
            BadSample: it cannot be used.
        """
        augmentation, most = self.augmentation(slot), self.data.max_pixels
        if self.data.fast_views:
            return fast_view(content, most, augmentation, draws, self.jpeg)
        return augmentation(decode_image(content, most), draws)

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
        return Batch(
            image=normalised([sample.image for sample in samples]),
            input_ids=ids,
            attention_mask=mask,
            image_id=torch.tensor([sample.image_id for sample in samples]),
            key=[sample.key for sample in samples],
            reason=[sample.reason for sample in samples],
            capacity=capacity,
            label=label,
            answers=answers,
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


@dataclass(frozen=True)
class MicroBatches:
    """Slots of a rank's micro-batches: of step s and accumulation a, in that order.

    Rank r takes slots s * global + (a * ranks + r) * micro + [0, micro), so that features gathered
    as [a, r, micro] are in slot order whatever the number of ranks.
    """

    global_batch: int
    micro_batch: int
    rank: int
    ranks: int
    start_step: int
    stop_step: int

    @property
    def accumulation(self) -> int:
        """Micro-batches of a rank in a step."""
        return self.global_batch // (self.micro_batch * self.ranks)

    def __len__(self) -> int:
        return max(0, self.stop_step - self.start_step) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start_step, self.stop_step):
            for part in range(self.accumulation):
                first = step * self.global_batch
                first += (part * self.ranks + self.rank) * self.micro_batch
                yield list(range(first, first + self.micro_batch))


def micro_batch_size(config: RunConfig, ranks: int) -> int:
    """Pairs a rank takes in one forward pass.

    Raises:
        ConfigError: the global batch does not divide, or a negative group would be split.
    """
    train = config.train
    micro = train.micro_batch_size or train.global_batch_size // ranks
    if not micro or train.global_batch_size % (micro * ranks):
        raise ConfigError(
            f"train.global_batch_size {train.global_batch_size} is not a multiple of {ranks} ranks "
            f"x micro-batch {micro}: change one of them"
        )
    if micro % train.group_size:
        raise ConfigError(
            f"a rank's micro-batch of {micro} pairs would split negative groups of "
            f"{train.group_size}: use fewer ranks or a smaller train.negative_group_size"
        )
    return micro


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
) -> DataLoader:
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
    workers = config.data.workers
    on_gpu = torch.cuda.is_available() and config.device != "cpu"
    there = slots(config, source)
    return DataLoader(
        there,
        batch_sampler=micro_batches,
        num_workers=workers,
        collate_fn=there.collate(tokenizer, prompt, train.compile or on_gpu),
        pin_memory=on_gpu,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker if workers else None,
    )


def from_worker(error: Exception) -> str:
    """What an error says, without the traceback that a loader process wraps around it."""
    text = str(error).strip()
    if "Original Traceback" not in text:
        return text
    return text.splitlines()[-1].partition(": ")[2]


def _start_worker(_: int) -> None:
    """One thread, and the main process decides when a stopped run ends.

    Ctrl-C and the DeepSpeed launcher signal workers too, and a worker that dies takes the run down
    before it has saved. A second signal does end a worker.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signal.signal(number, signal.SIG_DFL))
    # A stop may come while a batch is handed over: nothing is wrong with who is hung up on.
    told = sys.excepthook
    sys.excepthook = lambda kind, *more: None if issubclass(kind, LEFT) else told(kind, *more)
