"""The arms: what each one's model is pretrained on, and how."""

from dataclasses import dataclass
from typing import Literal

Pairs = Literal["found", "filter", "captioner", "both"]


@dataclass(frozen=True)
class Arm:
    """One way to use the noisy pairs.

    Attributes:
        what: it does, in a few words.
        pairs: it is pretrained on, beside the clean ones: `found` web pairs as they are; `filter`
            those whose text passes; `captioner` all with a synthetic text beside; `both` web and
            synthetic texts that pass.
        method: how synthetic texts are made.
        shared: captioner and filter are one model.
        continued: the model goes on from the base instead of a new one.
        contrastive: trained by contrast alone.
        clean: share of the pairs that are clean, instead of the experiment's.
    """

    what: str
    pairs: Pairs
    method: Literal["nucleus", "beam"] = "nucleus"
    shared: bool = False
    continued: bool = False
    contrastive: bool = False
    clean: float | None = None


# By importance: an experiment that is stopped early leaves the first ones complete.
ARMS = {
    "none": Arm("web pairs as found", "found"),
    "filter": Arm("web texts that the filter passes", "filter"),
    "captioner": Arm("web pairs as found, and a caption of every picture", "captioner"),
    "both": Arm("web texts and captions that the filter passes", "both"),
    "both_beam": Arm("both, captions by beam search", "both", method="beam"),
    "both_shared": Arm("both, captioner and filter are one model", "both", shared=True),
    "both_continued": Arm("both, the base model goes on", "both", continued=True),
    "align": Arm("web pairs as found, contrast alone", "found", contrastive=True),
    "clip": Arm("both, contrast alone", "both", contrastive=True),
    "none_clean3": Arm("web pairs as found, 3 % clean", "found", clean=0.03),
    "both_clean3": Arm("both, 3 % clean", "both", clean=0.03),
    "none_clean1": Arm("web pairs as found, 1 % clean", "found", clean=0.01),
    "both_clean1": Arm("both, 1 % clean", "both", clean=0.01),
}
CORE = ("none", "filter", "captioner", "both")
BASE = "none"


def base_of(name: str) -> str:
    """The arm whose model captioner and filter of an arm start from: `none` with its clean set."""
    clean = ARMS[name].clean
    return next(n for n, arm in ARMS.items() if arm.pairs == "found" and arm.clean == clean)


def in_order(names: list[str], seeds: list[int]) -> list[tuple[int, str]]:
    """Cells (seed, arm) in the order they are worked on: core arms of all seeds first.

    Among the others an arm goes through all seeds before the next one begins.
    """
    core = [name for name in ARMS if name in names and name in CORE]
    rest = [name for name in ARMS if name in names and name not in CORE]
    return [(seed, name) for seed in seeds for name in core] + [
        (seed, name) for name in rest for seed in seeds
    ]
