"""The whole loop in one typed, frozen object: a section for each stage, and the guard's limits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

from engine.capfilt.config import CapFiltConfig
from engine.config import ConfigError, RunConfig
from engine.ranges import COUNT, NOT_NEGATIVE, SEED, SHARE, out_of_range

STAGES = ("pretrain", "captioner", "filter", "capfilt")
# What each stage is given by the loop, so that the parts always fit together.
OF_A_RUN = ("output_dir", "resume", "seed", "precision", "device", "model.checkpoint")
OF_A_RUN += ("data.train", "data.eval", "data.image_root", "train.contrast_only")
OF_CAPFILT = ("output_dir", "resume", "seed", "precision", "device", "captioner", "filter")
# Published shards lie only there, and the next pretraining reads the loop's own folder.
OF_CAPFILT += ("from_table", "publish_to", "data.train")
SET_BY_THE_LOOP = {**dict.fromkeys(STAGES[:3], OF_A_RUN), "capfilt": OF_CAPFILT}
# What a stage takes over from the pretraining that it goes on from.
TAKEN_OVER = {
    "captioner": ("model.preset", "model.vocabulary"),
    "filter": ("model.preset", "model.vocabulary"),
    "capfilt": ("model.vocabulary",),
}


@dataclass(frozen=True, kw_only=True)
class SetsSection:
    """The three sets of pairs.

    Args:
        web: noisy pairs, tar shards (glob, folder, range or list); each round cleans these anew.
        clean: human-written pairs (shards, annotation JSON, CSV, TSV or Parquet): captioner and
            filter are fine-tuned on them, and every pretraining sees them too.
        eval: held-out pairs that the guard judges by.
        image_root: folder that relative picture paths of annotation files start from.
    """

    web: str | list[str] = ""
    clean: str | list[str] = ""
    eval: str | list[str] = ""
    image_root: str | None = None


@dataclass(frozen=True, kw_only=True)
class GuardSection:
    """When a round is rejected. Shares lie in [0, 1].

    The limits lie between what was measured of rounds that helped, on OpenMoji's pairs with half of
    them swapped, and of collapsed ones: six filters had a precision of 0.91 to 0.97 and a recall of
    0.49 to 0.59 of held-out texts, one that was not tuned 0.09; captions of beam search had 0.22
    and nucleus ones 1.3 of the web's distinct bigrams, fifty captions in turn have 0.13. Of the
    words of captions 0 to 0.06 were unseen, with 21 to 355 clean pairs, and 0.20 with 747 of
    another kind than the web's; of captioners tuned for 4, 20 and 60 steps, after a pretraining of
    six, 0.98, 0.93 and 0.35.

    Args:
        filter_precision: of the held-out texts that the filter keeps, right and wrong ones in equal
            number before, at least this share is right; 0.5 is chance.
        filter_recall: of the right texts it keeps at least this share.
        diversity: distinct bigrams of the synthetic captions, at least this share of those of as
            many web captions of the same pictures.
        unseen_words: of the words of the synthetic captions, at most this share is in no clean
            caption (of 4,096 pairs at most).
        commonest_share: no caption makes up more than this share of the synthetic ones.
        kept_share: at least this share of all candidate texts is kept.
        kept_drift: the kept share differs at most so much from the last good round's.
        retrieval_drop: R@1 of the new model on the held-out pairs, mean of both ways, is at most so
            much below the best round's. Of 400 pictures R@1 is known to two points, of 5,000 to
            half a point.
        on_reject: `stop`, or `continue` with the next round from the last good one, other seeds.
    """

    filter_precision: float = 0.6
    filter_recall: float = 0.3
    diversity: float = 0.15
    unseen_words: float = 0.3
    commonest_share: float = 0.1
    kept_share: float = 0.05
    kept_drift: float = 0.25
    retrieval_drop: float = 0.01
    on_reject: Literal["stop", "continue"] = "stop"


@contextmanager
def named(stage: str, between: str = ".") -> Iterator[None]:
    """Errors of the context begin with the stage that they are about."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{stage}{between}{error}") from None


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
    """A pretraining of the loop."""

    def __post_init__(self) -> None:
        with named("pretrain"):
            super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig(RunConfig):
    """The fine-tuning of a captioner.

    Args:
        task: what it trains; always `caption`.
    """

    task: Literal["caption"] = "caption"

    def __post_init__(self) -> None:
        with named("captioner"):
            super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class FilterConfig(RunConfig):
    """The fine-tuning of a filter.

    Args:
        task: what it trains; always `retrieval`, contrast and matching.
    """

    task: Literal["retrieval"] = "retrieval"

    def __post_init__(self) -> None:
        with named("filter"):
            super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class CleaningConfig(CapFiltConfig):
    """Captioning and filtering in the loop."""

    def __post_init__(self) -> None:
        with named("capfilt"):
            super().__post_init__()


RANGES = {
    "rounds": COUNT,
    "seed": SEED,
    "guard.filter_precision": SHARE,
    "guard.filter_recall": SHARE,
    "guard.diversity": NOT_NEGATIVE,
    "guard.unseen_words": SHARE,
    "guard.commonest_share": SHARE,
    "guard.kept_share": SHARE,
    "guard.kept_drift": SHARE,
    "guard.retrieval_drop": SHARE,
}


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig:
    """Rounds of bootstrapping.

    Args:
        output_dir: folder of all rounds, and of `bootstrap.json`, which says how they went.
        rounds: after the first pretraining; more than before adds to what is there.
        resume: `auto` continues what is in output_dir, `none` refuses a folder that holds a loop.
        seed: of everything random. Every pretraining takes it; the other stages of round r take
            seed + r.
        precision: of all stages: fp32, or bf16 matrix products over fp32 weights.
        device: `auto`, `cpu` or `cuda`.
        data: the sets of pairs.
        guard: when a round is rejected.
        pretrain: every round's pretraining, from fresh weights.
        captioner: its fine-tuning from the last good pretraining.
        filter: its fine-tuning from the last good pretraining.
        capfilt: captioning and filtering of the web pairs.
    """

    output_dir: str = "runs/bootstrap"
    rounds: int = 1
    resume: Literal["auto", "none"] = "auto"
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "bf16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: SetsSection = field(default_factory=SetsSection)
    guard: GuardSection = field(default_factory=GuardSection)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    captioner: CaptionerConfig = field(default_factory=CaptionerConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    capfilt: CleaningConfig = field(default_factory=CleaningConfig)

    def __post_init__(self) -> None:
        problem = out_of_range(self, RANGES)
        if problem:
            raise ConfigError(problem)
        if not self.output_dir.strip():
            raise ConfigError("output_dir is empty: name the folder of the loop")
        refuse_stages(self, "loop", _hint)


def refuse_stages(config: Any, giver: str, hint: Callable[[str], str] = lambda key: "") -> None:
    """What is given to every stage is not for a section to say, and captions have one prompt.

    Args:
        config: with the sections pretrain, captioner, filter and capfilt.
        giver: what sets it, for the message.
        hint: where a key is set instead, for the message.

    Raises:
        ConfigError: a section says it, or something else than the pretraining.
    """
    for stage, keys in SET_BY_THE_LOOP.items():
        section = getattr(config, stage)
        for key in keys:
            if attrgetter(key)(section) != attrgetter(key)(type(section)()):
                raise ConfigError(f"{stage}.{key} is set by the {giver}: take it out{hint(key)}")
    for stage, keys in TAKEN_OVER.items():
        section = getattr(config, stage)
        for key in keys:
            given, ours = attrgetter(key)(section), attrgetter(key)(config.pretrain)
            if given not in (attrgetter(key)(type(section)()), ours):
                raise ConfigError(
                    f"{stage}.{key} {given!r} is not the pretraining's {ours!r}, which the "
                    "stage goes on from: leave it out"
                )
    prompts = config.capfilt.caption.prompt, config.captioner.evaluate.prompt
    if prompts[0] != prompts[1]:
        raise ConfigError(
            f"capfilt.caption.prompt {prompts[0]!r} is not the prompt that the captioner "
            f"learns behind (captioner.evaluate.prompt {prompts[1]!r})"
        )


def _hint(key: str) -> str:
    """Where the loop has it from."""
    places = {"data.train": "data.web and data.clean", "data.eval": "data.eval"}
    same = ("seed", "precision", "device", "output_dir", "resume")
    place = places.get(key) or (key if key in same or key == "data.image_root" else "")
    return f" and set {place}" if place else ""
