"""Which values the numbers of a run may take."""

import math
from dataclasses import dataclass
from operator import attrgetter
from typing import Any


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`.

    Attributes:
        low: smallest.
        high: largest.
        open_low: `low` itself is outside.
        open_high: `high` itself is outside.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        low = f"{'above' if self.open_low else 'at least'} {self.low:g}"
        if math.isinf(self.high):
            return low
        return f"{low} and {'below' if self.open_high else 'at most'} {self.high:g}"


COUNT, NOT_NEGATIVE, POSITIVE = Range(1), Range(0), Range(0, open_low=True)
SHARE, PROBABILITY = Range(0, 1), Range(0, 1, open_high=True)
PART = Range(0, 1, open_low=True)
# Beyond these nothing but an error or a slip is to be had: an end of memory, mostly.
BATCH, BEAMS, SIDE = Range(1, 100_000), Range(1, 100), Range(1, 4096)
# Draws are keyed by 64 bits: a larger one would be another one's.
SEED = Range(0, 2**64 - 1)

# How captions and answers are written, on every command line and in Python.
WRITING = {
    "samples": COUNT,
    "top_p": PART,
    "top_k": NOT_NEGATIVE,
    "temperature": POSITIVE,
    "num_beams": BEAMS,
    "max_length": COUNT,
    "min_length": NOT_NEGATIVE,
    "repetition_penalty": POSITIVE,
    "length_penalty": NOT_NEGATIVE,
}

RANGES = {
    "seed": SEED,
    "model.image_size": SIDE,
    "model.dropout": PROBABILITY,
    "model.drop_path": PROBABILITY,
    "model.queue_size": NOT_NEGATIVE,
    "model.momentum": SHARE,
    "model.alpha": SHARE,
    "model.alpha_ramp_epochs": NOT_NEGATIVE,
    "model.label_smoothing": PROBABILITY,
    "data.workers": NOT_NEGATIVE,
    "data.weights": POSITIVE,
    "data.max_words": COUNT,
    # [CLS], a word and [SEP]; BERT has 512 positions.
    "data.max_tokens": Range(3, 512),
    "data.min_crop_scale": PART,
    "data.shuffle_window": COUNT,
    "data.max_pixels": COUNT,
    "data.frames": COUNT,
    "data.max_bad_fraction": SHARE,
    "train.epochs": COUNT,
    "train.max_steps": NOT_NEGATIVE,
    # A pair needs another one to be told from.
    "train.global_batch_size": Range(2),
    "train.micro_batch_size": BATCH,
    "train.negative_group_size": Range(2),
    "train.learning_rate": POSITIVE,
    "train.min_learning_rate": NOT_NEGATIVE,
    "train.warmup_steps": NOT_NEGATIVE,
    "train.warmup_learning_rate": NOT_NEGATIVE,
    "train.decay": PART,
    "train.weight_decay": NOT_NEGATIVE,
    "train.betas": PROBABILITY,
    "train.eps": POSITIVE,
    "train.clip_norm": NOT_NEGATIVE,
    "train.log_every": COUNT,
    "train.max_skipped_in_a_row": COUNT,
    "checkpoint.every": NOT_NEGATIVE,
    "checkpoint.keep_last": COUNT,
    "checkpoint.keep_every": NOT_NEGATIVE,
    "deepspeed.stage": Range(0, 3),
    "evaluate.batch_size": BATCH,
    "evaluate.shortlist": NOT_NEGATIVE,
    **{f"evaluate.{name}": WRITING[name] for name in ("num_beams", "max_length", "min_length")},
}


def out_of_range(run: Any, ranges: dict[str, Range] = RANGES) -> str | None:
    """`KEY is VALUE: must be ...` for the first number outside its range; None stands for unset.

    Args:
        run: configuration with the numbers.
        ranges: by dotted key.
    """
    for key, allowed in ranges.items():
        value = attrgetter(key)(run)
        for number in value if isinstance(value, tuple | list) else (value,):
            if number is not None and number not in allowed:
                return f"{key} is {number}: must be {allowed}"
    return None


def lengths_problem(min_length: int, max_length: int, section: str = "") -> str | None:
    """What is wrong with the two lengths of what is written, where each is in its range.

    Args:
        min_length: in tokens.
        max_length: in tokens.
        section: of the settings with its dot, where they have one.
    """
    if min_length <= max_length:
        return None
    return f"{section}min_length {min_length} is more than {section}max_length {max_length}"
