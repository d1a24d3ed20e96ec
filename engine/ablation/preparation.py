"""What arms of one seed and one clean set have in common: world, base, captioner, filter, sets."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path

from engine.ablation.arms import Arm, base_of
from engine.ablation.config import AblationConfig
from engine.ablation.scoring import judge_by_record, score_shards, web_scores
from engine.bootstrap.labelled import judge_filter
from engine.capfilt.config import CapFiltConfig, CaptionSection, RuleSection
from engine.collect.world import World, make_world, read_noise
from engine.config import ConfigError, RunConfig
from engine.data.tokenizer import Tokenizer
from engine.stages import Stages
from engine.training.objectives import Objective, Pretraining
from engine.training.tuning import Captioning, Retrieval

Kind = Callable[[RunConfig, Tokenizer], Objective]


class Preparation:
    """Stages that are made when an arm first asks for them.

    Args:
        config: of the experiment.
        stages: that run.
        seed: of the world and of every stage.
        name: of an arm, which says the clean set.
        arm: of that name.
    """

    def __init__(
        self, config: AblationConfig, stages: Stages, seed: int, name: str, arm: Arm
    ) -> None:
        self.config, self.stages, self.seed, self.arm = config, stages, seed, arm
        self.share = config.clean_fraction if arm.clean is None else arm.clean
        self.root = seed_folder(config, seed)
        self.folder = self.root / f"clean_{100 * self.share:g}"
        self._base = self.root / base_of(name)

    @cached_property
    def world(self) -> World:
        """The clean pairs and the noisy web."""
        config = self.config
        where = {"train": config.data.train, "clean": config.data.clean}
        how = {"noise": config.noise, "clean_fraction": self.share, "seed": self.seed}
        how["min_word_count"] = config.data.min_word_count

        def made() -> World:
            world = make_world(self.folder / "world", **where, **how)
            kinds = set(read_noise(world.noise).values())
            if config.noise and len(kinds) < 2:
                found = "all" if kinds == {True} else "none"
                raise ConfigError(
                    f"noise {config.noise}: of the web's captions {found} are swapped, so no "
                    "filter could be judged: take another share, or more pairs"
                )
            return world

        return self.stages.on_main(made)

    def run(
        self, section: RunConfig, folder: Path, train: list[Path], start: Path | None = None
    ) -> RunConfig:
        """A run of this seed.

        Args:
            section: how it trains.
            folder: of the run.
            train: shards, or cleaned sets.
            start: run whose weights it starts from.
        """
        config, network = self.config, self.config.pretrain.model
        model = replace(
            section.model,
            preset=network.preset,
            image_size=section.model.image_size or network.image_size,
            vocabulary=network.vocabulary,
            checkpoint=str(start) if start else section.model.checkpoint,
        )
        pairs = [str(path) for path in train]
        return replace(
            section,
            output_dir=str(folder),
            seed=self.seed,
            precision=config.precision,
            device=config.device,
            model=model,
            data=replace(section.data, train=pairs, eval=config.data.eval),
        )

    @cached_property
    def base(self) -> Path:
        """The model of the arm without cleaning, from which captioner and filter start."""
        train = [self.world.web, self.world.clean]
        return self.stages.train(self.run(self.config.pretrain, self._base, train), Pretraining)

    def pairs(self) -> list[Path]:
        """What the arm's model is pretrained on; of a cleaned set every kept text is a pair."""
        what, clean = self.arm.pairs, self.world.clean
        if what == "found":
            return [self.world.web, clean]
        cleaned = self.captions if what == "both" else self._by_rule(self.captions, what)
        return [cleaned, clean]

    @cached_property
    def captions(self) -> Path:
        """Captions and scores of the web, and the cleaned shards by the rule of `both`."""
        captioner, judge = self._models
        caption, prompted = self.config.capfilt.caption, not self.arm.shared
        if self.arm.method == "beam":
            caption = replace(caption, method="beam", samples=1)
        if not prompted:
            # Trained on all three losses, it has seen captions without a prompt.
            like = self.config.pretrain.evaluate
            lengths = {"min_length": like.min_length, "max_length": like.max_length}
            caption = replace(caption, prompt=like.prompt, **lengths)
        config = replace(
            self._capfilt(self.folder / f"captions{self._kind}"),
            captioner=str(captioner),
            filter=str(judge),
            caption=caption,
        )
        return self.stages.caption_and_filter(config)

    def judgement(self) -> dict[str, float]:
        """What the arm's filter is worth: against the recorded noise, or on held-out pairs.

        Returns:
            filter_auc and the rest of `judge_by_record` or of `judge_filter`, and filter_auc_base
            of the model that the filter was made from.
        """
        table, judge, base = self.captions, self._models[1], self.base
        return self.stages.on_main(
            lambda: (
                self._by_record(table, base)
                if self.config.noise
                else self._on_held_out(judge, base)
            )
        )

    def _by_record(self, table: Path, base: Path) -> dict[str, float]:
        world, rule = self.world, self.config.capfilt.rule
        swapped = read_noise(world.noise)
        look = self.run(self.config.pretrain, base, [])
        before = judge_by_record(score_shards(look, base, world.web), swapped, rule)
        found = judge_by_record(web_scores(table), swapped, rule)
        return found | {"filter_auc_base": before["filter_auc"]}

    def _on_held_out(self, judge: Path, base: Path) -> dict[str, float]:
        data = replace(self.config.pretrain.data, eval=self.config.data.eval)

        def judged(model: Path) -> dict[str, float]:
            config = replace(self._capfilt(self.folder), filter=str(model))
            return judge_filter(config, data, self.config.device, self.seed)

        return judged(judge) | {"filter_auc_base": judged(base)["filter_auc"]}

    @property
    def _kind(self) -> str:
        """What is particular about the arm's captions, for a folder's name."""
        return f"_{self.arm.method}{'_shared' if self.arm.shared else ''}"

    @cached_property
    def _models(self) -> tuple[Path, Path]:
        """Captioner and filter, which may be one."""
        base, clean, config = self.base, [self.world.clean], self.config

        def tune(name: str, section: RunConfig, objective: Kind) -> Path:
            run = self.run(section, self.folder / name, clean, base)
            return self.stages.train(run, objective)

        if self.arm.shared:
            # Without the filter's task: it learns all three losses.
            plain = {one.name: getattr(config.filter, one.name) for one in fields(RunConfig)}
            both = tune("shared", RunConfig(**plain), Pretraining)
            return both, both
        captioner = tune("captioner", config.captioner, Captioning)
        return captioner, tune("filter", config.filter, Retrieval)

    def _by_rule(self, table: Path, what: str) -> Path:
        """Shards by another rule from the same scores."""
        rule = replace(self.config.capfilt.rule, best_synthetic=0)
        if what == "captioner":
            rule = RuleSection(itm_threshold=0.0, drop_not_words=False)
        section = self._capfilt(self.folder / f"{what}{self._kind}")
        # Its captions are there, by whatever settings.
        section = replace(section, from_table=str(table), caption=CaptionSection(), rule=rule)
        return self.stages.caption_and_filter(section)

    def _capfilt(self, folder: Path) -> CapFiltConfig:
        config, section = self.config, self.config.capfilt
        return replace(
            section,
            output_dir=str(folder),
            captioner=None,
            filter=None,
            from_table=None,
            seed=self.seed,
            precision=config.precision,
            device=config.device,
            data=replace(section.data, train=str(self.world.web)),
        )


def seed_folder(config: AblationConfig, seed: int) -> Path:
    """Where everything of a seed lies."""
    return Path(config.output_dir) / f"seed_{seed}"
