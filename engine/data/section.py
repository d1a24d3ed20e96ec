"""The settings of a run's data: where pairs come from and how they become tensors."""

from dataclasses import dataclass, field
from typing import Literal

from engine.curriculum import CurriculumStage


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """Where pairs come from and how they become tensors.

    Args:
        train: shards (glob, folder or list), annotation JSON, CSV, TSV or Parquet.
        weights: how often each entry of the list `train` is drawn, relative to each other; null
            draws every pair once an epoch. An epoch is always as many draws as there are pairs.
        eval: the same as `train` for held-out pairs, which evaluations and reports look at and a
            run that trains never does; or null.
        image_root: folder that relative picture paths of an annotation file start from.
        workers: loader processes a rank; 0 loads in the training process.
        max_words: words kept of a cleaned caption.
        max_tokens: tokens kept of a caption, special tokens included.
        min_crop_scale: smallest share of the picture's area a random crop keeps.
        horizontal_flip: mirror half of the pictures.
        rand_augment: apply BLIP's RandAugment (2 operations of strength 5).
        shuffle_window: shards whose samples are mixed with each other.
        fast_views: of training pictures: decode a JPEG at half, a quarter or an eighth of its
            size where the crop is that much larger than the view, and resize bytes by PyTorch.
            false is Pillow all the way, the definition; see `engine.data.fast_view` for how far
            they are apart.
        jpeg_decoder: `dali`, `torchvision`, `simplejpeg`, `pillow`, or `auto`: the first of them
            that is installed and works, DALI on a GPU alone and torchvision only if it is named.
            The last two give the same pixels. The first two make the views of whole colour JPEGs
            on the device, nearly the definition's whatever fast_views says; `engine.data.dali`
            and `engine.data.torchvision_views` say how far from it.
        max_pixels: larger pictures are bad samples (decompression bombs).
        frames: seen of each video, at equal distances.
        max_bad_fraction: more bad samples stop a run, which judges from the 200th on, and leave an
            evaluation without figures.
        curriculum: smaller pictures and shorter texts for the first steps, stage by stage, for
            example [{until_step: 10000, image_size: 160, max_tokens: 20}]; mfu is then null.
    """

    train: str | list[str] = ""
    weights: list[float] | None = None
    eval: str | list[str] | None = None
    image_root: str | None = None
    workers: int = 4
    max_words: int = 30
    max_tokens: int = 30
    min_crop_scale: float = 0.2
    horizontal_flip: bool = True
    rand_augment: bool = True
    shuffle_window: int = 64
    fast_views: bool = True
    jpeg_decoder: Literal["auto", "dali", "torchvision", "simplejpeg", "pillow"] = "auto"
    max_pixels: int = 25_000_000
    frames: int = 8
    max_bad_fraction: float = 0.05
    curriculum: list[CurriculumStage] = field(default_factory=list)
