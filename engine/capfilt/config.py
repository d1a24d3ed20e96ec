"""A captioning-and-filtering run in one typed, frozen object."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from engine.config import ConfigError
from engine.ranges import (
    BATCH,
    COUNT,
    NOT_NEGATIVE,
    SEED,
    SHARE,
    SIDE,
    WRITING,
    Range,
    lengths_problem,
    out_of_range,
)
from engine.remote.config import RANGES as REMOTE_RANGES
from engine.remote.config import RemoteSection

Ranked = Literal["itm", "itc"]


@dataclass(frozen=True, kw_only=True)
class PairsSection:
    """Where pairs come from.

    Args:
        train: tar shards: a path, a folder of them, a glob, a `{00000..00009}` range, or a list;
            also by URL (s3://, gs://, az://, https://).
        workers: threads a process that read and decode pictures.
        max_words: words of a text that are scored.
        max_tokens: tokens of a text that are scored, special tokens included.
        max_pixels: larger pictures are bad samples (decompression bombs).
    """

    train: str | list[str] = ""
    workers: int = 4
    max_words: int = 30
    max_tokens: int = 35
    max_pixels: int = 25_000_000


@dataclass(frozen=True, kw_only=True)
class NetworkSection:
    """What weights do not tell.

    Args:
        image_size: side of the square picture in pixels; null keeps what the weights were made for.
        vocabulary: folder or vocab.txt of the BERT vocabulary; null looks in installed packages.
    """

    image_size: int | None = None
    vocabulary: str | None = None


@dataclass(frozen=True, kw_only=True)
class CaptionSection:
    """How synthetic captions are made.

    Args:
        method: `nucleus` samples, as the paper does because it is more diverse; `beam` searches.
        prompt: that every caption starts with and that is cut off again.
        samples: captions a picture; beam search gives one.
        top_p: nucleus: tokens are drawn from the fewest that hold this probability.
        top_k: nucleus: and from so many at most; 0 sets no limit, as the paper names none. The
            original's code took the 50 that its version of transformers had by default.
        temperature: nucleus: divides the logits.
        num_beams: beam: beams a picture.
        max_length: longest caption in tokens, prompt included.
        min_length: shortest caption in tokens, prompt included.
        repetition_penalty: divides the odds of tokens that are there already; null takes the
            original's, 1.1 for nucleus and 1.0 for beam.
        length_penalty: beam: exponent of the length that scores are divided by.
    """

    method: Literal["nucleus", "beam"] = "nucleus"
    prompt: str = "a picture of "
    samples: int = 1
    top_p: float = 0.9
    top_k: int = 0
    temperature: float = 1.0
    num_beams: int = 3
    max_length: int = 20
    min_length: int = 5
    repetition_penalty: float | None = None
    length_penalty: float = 1.0

    @property
    def penalty(self) -> float:
        """The repetition penalty, its default filled in."""
        default = 1.1 if self.method == "nucleus" else 1.0
        return default if self.repetition_penalty is None else self.repetition_penalty

    def resolved(self) -> dict[str, Any]:
        """All settings by name, the default of the repetition penalty filled in."""
        return {**asdict(self), "repetition_penalty": self.penalty}

    def refuse_contradictions(self) -> None:
        """Look at what belongs together.

        Raises:
            ConfigError: lengths that leave nothing, or more samples than a search gives.
        """
        problem = lengths_problem(self.min_length, self.max_length, section="caption.")
        if problem:
            raise ConfigError(problem)
        if self.method == "beam" and self.samples > 1:
            raise ConfigError(
                f"caption.samples is {self.samples}: beam search gives one caption a picture; "
                "set caption.method to nucleus"
            )


@dataclass(frozen=True, kw_only=True)
class RuleSection:
    """Which texts stay.

    The defaults are the paper's rule, what the matching head calls matched, and `drop_not_words`.

    Args:
        itm_threshold: a text is dropped when its matching probability is below.
        itc_threshold: and when its cosine with the picture is below; null does not look at it.
        best_synthetic: of the synthetic texts that pass, so many best ones stay; null keeps all.
        at_most: of a picture's texts that pass, so many best ones stay; null keeps all.
        rank_by: score that is best: itm or itc. Of equal ones the first is.
        drop_duplicates: a text that is word for word an earlier one of its picture is dropped.
        drop_not_words: a synthetic text is dropped that no person would write: pieces of words
            (##ging, [unused12]), no letter at all, or words said over three times each.
    """

    itm_threshold: float = 0.5
    itc_threshold: float | None = None
    best_synthetic: int | None = None
    at_most: int | None = None
    rank_by: Ranked = "itm"
    drop_duplicates: bool = False
    drop_not_words: bool = True


RANGES = {
    "seed": SEED,
    "threads": Range(1, 1024),
    "batch_size": BATCH,
    "lease_seconds": Range(1),
    "data.workers": COUNT,
    "data.max_words": COUNT,
    "data.max_tokens": Range(3, 512),
    "data.max_pixels": COUNT,
    "model.image_size": SIDE,
    **{f"caption.{name}": allowed for name, allowed in WRITING.items()},
    "rule.itm_threshold": SHARE,
    "rule.itc_threshold": Range(-1, 1),
    "rule.best_synthetic": NOT_NEGATIVE,
    "rule.at_most": COUNT,
    **REMOTE_RANGES,
}


@dataclass(frozen=True, kw_only=True)
class CapFiltConfig:
    """One run.

    Args:
        output_dir: folder of the run and its cleaned shards; any number of processes may share it.
        publish_to: URL that what is finished is copied to; cleaned shards then lie only there.
        captioner: BLIP weights with a decoder (ours, original .pth, Hugging Face).
        filter: BLIP weights with a text encoder.
        from_table: folder of an earlier run: its scores are taken, no weights are needed, and only
            the rule may differ.
        resume: `auto` continues what is in output_dir, `none` refuses a folder that holds a run.
        seed: of the sampled captions.
        precision: fp32, or bf16 matrix products over fp32 weights.
        device: `auto`, `cpu` or `cuda`.
        threads: of each process on a CPU; none given, it shares the cores with the other ones of
            its launch. Belongs to a run in fp32, whose products round otherwise with another number
            of them; in bf16 they do not.
        batch_size: pictures a forward pass, and that are captioned at once. Belongs to the run:
            other batches round otherwise.
        lease_seconds: a process that shows no life for so long loses its shard to another one.
        report: write report.html into output_dir at the end.
    """

    output_dir: str = "runs/capfilt"
    publish_to: str | None = None
    captioner: str | None = None
    filter: str | None = None
    from_table: str | None = None
    resume: Literal["auto", "none"] = "auto"
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "bf16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    batch_size: int = 64
    lease_seconds: float = 60.0
    report: bool = True
    data: PairsSection = field(default_factory=PairsSection)
    model: NetworkSection = field(default_factory=NetworkSection)
    caption: CaptionSection = field(default_factory=CaptionSection)
    rule: RuleSection = field(default_factory=RuleSection)
    remote: RemoteSection = field(default_factory=RemoteSection)

    def __post_init__(self) -> None:
        problem = out_of_range(self, RANGES)
        if problem:
            raise ConfigError(problem)
        if not self.output_dir.strip():
            raise ConfigError("output_dir is empty: name the folder of the run")
        if "://" in self.output_dir:
            raise ConfigError(
                f"output_dir {self.output_dir}: is a folder that all processes share; set "
                "publish_to to the URL that what is finished goes to"
            )
        self.caption.refuse_contradictions()
        if self.from_table and (self.captioner or self.filter):
            raise ConfigError("from_table takes the scores of an earlier run: give no weights")
