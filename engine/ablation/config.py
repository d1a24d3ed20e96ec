"""An ablation of the denoising loop in one typed, frozen object."""

import difflib
from dataclasses import dataclass, field
from typing import Literal

from engine.ablation.arms import ARMS
from engine.bootstrap.config import (
    CaptionerConfig,
    CleaningConfig,
    FilterConfig,
    PretrainConfig,
    refuse_stages,
)
from engine.config import ConfigError
from engine.ranges import COUNT, PART, PROBABILITY, SEED


@dataclass(frozen=True, kw_only=True)
class WorldSection:
    """Where the pairs of the experiment come from.

    Args:
        train: pairs: shards (glob, folder or list) or an annotation file.
        clean: pairs that are clean; with them all of `train` is the noisy web. Null takes
            `clean_fraction` of `train`.
        eval: held-out pairs that every arm is evaluated on.
        min_word_count: pairs of `train` are left out until every word of a caption stands in so
            many captions. What a word means is learnt from other pictures: of a word that stands
            in one caption alone, nobody could say whether it was swapped.
    """

    train: str | list[str] = ""
    clean: str | list[str] | None = None
    eval: str | list[str] = ""
    min_word_count: int = 1


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """The experiment: arms times seeds. Sections hold how each stage is run.

    The seed, the precision, the device, data and folders of all stages come from here; captioner
    and filter take the network of `pretrain.model` (preset, vocabulary, image_size if unset).

    Args:
        output_dir: folder of all cells and results; any number of processes may share it.
        seeds: of the world, the weights and the order; each gives one value an arm.
        arms: by name.
        noise: share of the web's captions that are swapped, below 1; 0 takes the web as it is
            found, and measures the filter on the held-out pairs.
        clean_fraction: share of the pairs that is clean; of data.clean's where that is set.
        precision: fp32, or bf16 matrix products over fp32 weights.
        device: `auto`, `cpu` or `cuda`.
        pretrain: every arm's pretraining, and the evaluation.
        captioner: fine-tuning of the captioner on the clean pairs.
        filter: fine-tuning of the filter, and of the model that is both.
        capfilt: captions, and the rule of the arm `both`.
    """

    output_dir: str = "runs/ablation"
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    arms: list[str] = field(default_factory=lambda: list(ARMS))
    noise: float = 0.5
    clean_fraction: float = 0.10
    precision: Literal["fp32", "bf16"] = "bf16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: WorldSection = field(default_factory=WorldSection)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    captioner: CaptionerConfig = field(default_factory=CaptionerConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    capfilt: CleaningConfig = field(default_factory=CleaningConfig)

    def __post_init__(self) -> None:
        if not self.output_dir.strip():
            raise ConfigError("output_dir is empty: name the folder of the experiment")
        for name in self.arms:
            if name not in ARMS:
                close = difflib.get_close_matches(name, ARMS, 1, 0.5)
                hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(ARMS)}"
                raise ConfigError(f"unknown arm {name!r}: {hint}")
        for what, values in (("arms", self.arms), ("seeds", self.seeds)):
            if not values:
                raise ConfigError(f"{what} is empty: name at least one")
            if len(set(values)) < len(values):
                raise ConfigError(f"{what}: one is named twice")
        for seed in self.seeds:
            if seed not in SEED:
                raise ConfigError(f"seeds: one is {seed}: must be {SEED}")
        if self.noise not in PROBABILITY:
            raise ConfigError(f"noise is {self.noise}: must be {PROBABILITY}")
        if self.clean_fraction not in PART or (not self.data.clean and self.clean_fraction == 1):
            more = "" if self.data.clean else ", and below 1 without data.clean"
            raise ConfigError(f"clean_fraction is {self.clean_fraction}: must be {PART}{more}")
        if self.data.min_word_count not in COUNT:
            raise ConfigError(f"data.min_word_count is {self.data.min_word_count}: must be {COUNT}")
        for key in ("train", "eval"):
            if not getattr(self.data, key):
                raise ConfigError(f"no pairs: set data.{key} to shards or an annotation file")
        refuse_stages(self, "experiment")


# Which arms and seeds are made, and where: a folder holds one experiment whatever these are.
FREE = ("output_dir", "seeds", "arms", "device")
