"""What the commands that go through many pictures are told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engine.capfilt.config import RANGES as CAPFILT_RANGES
from engine.capfilt.config import CaptionSection
from engine.config import ConfigError
from engine.ranges import BATCH, COUNT, SIDE, Range, out_of_range

PICTURES = (
    "files, folders (pictures and shards at any depth), .tar shards, annotation lists "
    "(.json, .csv, .tsv, .parquet), globs, {00000..00009} ranges"
)
What = Literal["pictures", "texts", "pairs"]
RANGES = {"batch_size": BATCH, "threads": COUNT, "image_size": SIDE, "max_pixels": COUNT}
CAPTION = {
    key: allowed
    for key, allowed in CAPFILT_RANGES.items()
    if key.startswith("caption.") or key == "seed"
}


@dataclass(frozen=True, kw_only=True)
class BulkConfig:
    """Pictures and a model.

    Args:
        pictures: see `PICTURES`.
        model: BLIP weights (run folder, original .pth, Hugging Face folder or name).
        output: file to write; must not exist yet. It appears when it is whole.
        image_root: folder that relative picture paths of an annotation list start from.
        batch_size: pictures or texts a forward pass.
        threads: that read and decode pictures.
        max_pixels: larger pictures are skipped (decompression bombs).
        precision: fp32, or bf16 matrix products over fp32 weights.
        device: `auto`, `cpu` or `cuda`.
        image_size: side of the square picture in pixels; null keeps what the weights were made for.
        vocabulary: folder or vocab.txt of the BERT vocabulary; null looks in installed packages.
    """

    pictures: list[str] = field(default_factory=list)
    model: str | None = None
    output: str | None = None
    image_root: str | None = None
    batch_size: int = 32
    threads: int = 4
    max_pixels: int = 25_000_000
    precision: Literal["fp32", "bf16"] = "bf16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    image_size: int | None = None
    vocabulary: str | None = None

    def __post_init__(self) -> None:
        problem = out_of_range(self, RANGES)
        if problem:
            raise ConfigError(problem)
        if not self.model:
            raise ConfigError("no model: set --model to a run folder or weights")

    def _refuse_output(self, suffixes: tuple[str, ...]) -> None:
        if self.output is not None and Path(self.output).suffix not in suffixes:
            raise ConfigError(f"output {self.output}: must end in one of {', '.join(suffixes)}")


@dataclass(frozen=True, kw_only=True)
class CaptionConfig(BulkConfig):
    """Captions of pictures.

    Args:
        seed: of sampled captions; each depends on it and on the picture's name alone.
    """

    seed: int = 0
    caption: CaptionSection = field(default_factory=lambda: CaptionSection(method="beam"))

    def __post_init__(self) -> None:
        super().__post_init__()
        problem = out_of_range(self, CAPTION)
        if problem:
            raise ConfigError(problem)
        self.caption.refuse_contradictions()
        self._refuse_output((".jsonl", ".csv", ".parquet"))
        if not self.pictures:
            raise ConfigError("no picture named; --help shows examples")


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(BulkConfig):
    """Features and scores.

    Args:
        what: `pictures` writes a feature a picture, `texts` one a text, `pairs` the matching
            probability and the cosine of each picture with each of its texts.
        texts: a text file with a text a line, or a list of texts; null takes the captions that
            shards and annotation lists hold. For pairs each picture meets each of them.
        max_words: words of a text that count.
        max_tokens: tokens of a text that count, special tokens included.
    """

    what: What = "pictures"
    texts: str | list[str] | None = None
    max_words: int = 30
    max_tokens: int = 35

    def __post_init__(self) -> None:
        super().__post_init__()
        problem = out_of_range(self, {"max_words": COUNT, "max_tokens": Range(3, 512)})
        if problem:
            raise ConfigError(problem)
        if self.output is None:
            raise ConfigError("no output: set --output to a file that is to be written")
        pairs = (".parquet", ".jsonl", ".csv")
        self._refuse_output(pairs if self.what == "pairs" else (".parquet", ".npy"))
        if self.texts is not None and self.what == "pictures":
            raise ConfigError("texts: --what is pictures; set it to texts or pairs")
        if self.texts is not None and self.what == "texts" and self.pictures:
            raise ConfigError("texts and pictures both name texts: leave one of them out")
        if not self.pictures and (self.texts is None or self.what != "texts"):
            raise ConfigError("no picture named; --help shows examples")
