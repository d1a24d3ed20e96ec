"""The loop: pretrain, tune captioner and filter, clean the web pairs, pretrain anew; N times.

Every rank runs it alike. Each stage goes on where it was stopped, the verdicts stand in
`bootstrap.json`, and a rejected round is never built on.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from engine.bootstrap import guard
from engine.bootstrap.config import BootstrapConfig, SetsSection, named
from engine.bootstrap.diversity import compare, first_texts
from engine.bootstrap.guard import percent
from engine.bootstrap.labelled import judge_filter
from engine.bootstrap.plan import Plan
from engine.bootstrap.state import DONE, RUNNING, SETTINGS, Round, State, open_state
from engine.bootstrap.vocabulary import unseen_words, vocabulary
from engine.capfilt.rule import SYNTHETIC
from engine.capfilt.run import name_shards
from engine.config import ConfigError, to_dict
from engine.data.open_source import open_source
from engine.data.tokenizer import Tokenizer, open_tokenizer
from engine.report.page import ReportConfig, write_report
from engine.runtime import Runtime
from engine.share import Share
from engine.stages import Stages, Stopped
from engine.training.objectives import Pretraining
from engine.training.run_folder import locked
from engine.training.signals import STOPPED, StopRequest
from engine.training.trainer import Trainer
from engine.training.tuning import Captioning, Retrieval

NEXT = {
    "pretrain": "its retrieval on held-out pairs",
    "captioner": "the filter",
    "filter": "its quality on labelled pairs",
    "capfilt": "the captions' diversity",
}
WHAT = {
    "captioner": "fine-tuning on the clean pairs, from the model of round {start}",
    "filter": "fine-tuning on the clean pairs, from the model of round {start}",
    "capfilt": "captioning and filtering the web pairs",
}


class Bootstrap:
    """A loop in one folder.

    Args:
        config: of the loop.
        here: of this process, from `runtime.start`.
        stop: says when a signal asked to stop.
    """

    def __init__(self, config: BootstrapConfig, here: Runtime, stop: StopRequest) -> None:
        self.config, self.here, self.stop = config, here, stop
        self.plan, self.stages = Plan(config), Stages(here, stop)
        self.state = State(config, {}, [])

    def run(self) -> int:
        """Run all rounds; 0 when they have their verdicts, 75 when a signal stopped it.

        Raises:
            ConfigError: pairs or settings with which some stage could not work, found before the
                first one; a folder of another loop; or what a stage of its own would refuse.
        """
        try:
            pairs = refuse_unfit(self.plan, self.here, self.stop)
            self.stages.on_main(lambda: open_state(self.config, pairs))
            with locked(self.plan.root, Share(self.here)):
                # Once more: another loop may have been here until now.
                self.state = self.stages.on_main(lambda: open_state(self.config, pairs))
                self._save()
                self.stages.on_main(self._write_settings)
                self._loop()
                self.stages.on_main(self._write_report)
        except Stopped:
            self._say("stopped by a signal, everything is saved; start again to continue")
            return STOPPED
        return 0

    def _write_settings(self) -> None:
        path = self.plan.root / SETTINGS
        path.write_text(yaml.safe_dump(to_dict(self.config), sort_keys=False), encoding="utf-8")

    def _write_report(self) -> None:
        """A page about all rounds."""
        try:
            write_report(ReportConfig(run=str(self.plan.root)), self._say)
        except Exception as error:  # noqa: BLE001 - a finished loop must not fail for its report
            self._say(f"no report: {error}")

    def _loop(self) -> None:
        for number in range(self.config.rounds + 1):
            one, last = self.state.round(number), number == len(self.state.rounds) - 1
            # The last round is judged by the limits of today: what is done for it stays done.
            if one.accepted is None or (last and not one.accepted):
                reasons = self._make(one)
                one.accepted, one.reasons = not reasons, reasons
                self._save()
            self._say_verdict(one)
            if last and not one.accepted and self.config.guard.on_reject == "stop":
                self._say(
                    "stopping there (guard.on_reject); with --guard.on_reject continue the same "
                    f"command goes on from round {self.state.last_good.round}, with looser limits "
                    "(--guard.*) it goes on with this one"
                )
                break
        best = self.state.best
        self._say(f"{self.plan.root}: best is round {best.round}, {best.folders['pretrain']}")

    def _make(self, one: Round) -> list[str]:
        """All stages of a round; the reasons why it is rejected, as soon as there are any."""
        limits, plan, number, start = self.config.guard, self.plan, one.round, one.start
        if start is not None:
            captioner, scorer = plan.captioner(number, start), plan.filter(number, start)
            cleaning = plan.capfilt(number)
            self._stage(one, "captioner", lambda: self.stages.train(captioner, Captioning))
            self._stage(one, "filter", lambda: self.stages.train(scorer, Retrieval))
            device, seed = self.here.device.type, self.config.seed
            data = scorer.data
            self._judge(one, "filter_precision", lambda: judge_filter(cleaning, data, device, seed))
            reasons = guard.filter_reasons(one.guard, limits)
            if reasons:
                return reasons
            self._stage(one, "capfilt", lambda: self.stages.caption_and_filter(cleaning))
            folder = Path(cleaning.output_dir)
            tokenizer = open_tokenizer(self.config.pretrain.model.vocabulary)
            cleaned = partial(of_cleaned, folder, self.config.data, tokenizer)
            self._judge(one, "unseen_words", cleaned)
            reasons = guard.caption_reasons(one.guard, limits, self.state.rounds[start])
            if reasons:
                return reasons
        run = plan.pretrain(number)
        self._stage(one, "pretrain", lambda: self.stages.train(run, Pretraining))
        results = self.stages.evaluate(plan.retrieval(number), "retrieval")
        one.guard |= retrieval(results)
        return guard.retrieval_reasons(one.guard, limits, self.state.best)

    def _stage(self, one: Round, name: str, work: Callable[[], Any]) -> None:
        """Run a stage that is not done, and say so in the state before and after."""
        if one.stages.get(name) == DONE:
            return
        one.folders[name], one.stages[name] = self.plan.folder(one.round, name), RUNNING
        self._save()
        pairs = "cleaned" if one.round else "web"
        what = WHAT.get(name, f"from fresh weights on the {pairs} and clean pairs")
        what = what.format(start=one.start)
        self._say(f"{self._where(one)}, {name}: {what}; next: {NEXT[name]}")
        work()
        one.stages[name] = DONE
        self._save()

    def _judge(self, one: Round, known: str, work: Callable[[], dict[str, float]]) -> None:
        """Measure on the main process, unless the state holds one of the figures already."""
        if known in one.guard:
            return
        found = self.stages.on_main(work)
        one.guard |= found
        self._save()
        said = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        self._say(f"{self._where(one)}: {said}")

    def _save(self) -> None:
        self.stages.on_main(self.state.save)

    def _where(self, one: Round) -> str:
        return f"round {one.round} of {self.config.rounds}"

    def _say_verdict(self, one: Round) -> None:
        verdict = "accepted" if one.accepted else f"rejected: {'; '.join(one.reasons)}"
        recall = one.guard.get("retrieval_r1")
        found = "" if recall is None else f", retrieval R@1 {percent(recall)}"
        self._say(f"{self._where(one)}{found}: {verdict}")

    def _say(self, line: str) -> None:
        if self.here.is_main:
            print(f"[bootstrap] {line}", file=sys.stderr, flush=True)


def of_cleaned(folder: Path, sets: SetsSection, tokenizer: Tokenizer) -> dict[str, float]:
    """What the guard takes from an output of captioning and filtering."""
    texts = first_texts(folder)
    known = vocabulary(sets.clean, sets.image_root, tokenizer)
    unseen = unseen_words(texts[SYNTHETIC], known)
    return compare(texts) | {"unseen_words": unseen} | guard.kept_shares(folder)


def retrieval(results: dict[str, Any]) -> dict[str, float]:
    """What the guard takes from an evaluation: R@1 both ways, and their mean."""
    both = {way: results["metrics"][f"{way}_r1"] for way in ("text_to_image", "image_to_text")}
    mean = sum(both.values()) / len(both)
    return {"retrieval_r1": mean, **{f"{way}_r1": share for way, share in both.items()}}


def refuse_unfit(plan: Plan, here: Runtime, stop: StopRequest) -> dict[str, str]:
    """Look before the first stage at what would else fail hours later, in the last one.

    Returns:
        Fingerprints of the sets of pairs, by name.

    Raises:
        ConfigError: pairs that are missing, or settings that a stage refuses.
    """
    config = plan.config
    sets = config.data
    for name, what in (
        ("web", "noisy pairs in tar shards, which are cleaned"),
        ("clean", "human-written pairs, which captioner and filter learn from"),
        ("eval", "held-out pairs, which the guard judges by"),
    ):
        if not any([given] if isinstance(given := getattr(sets, name), str) else given):
            raise ConfigError(f"no {name} pairs: set data.{name} to {what}")
    shards = [str(path) for path in name_shards(sets.web, config.capfilt.remote).values()]
    specs = {"web": shards, "clean": sets.clean, "eval": sets.eval}
    pairs = {name: open_source(spec, sets.image_root).fingerprint for name, spec in specs.items()}
    runs = {"pretrain": (plan.pretrain(0), Pretraining)}
    runs["captioner"] = (plan.captioner(1, 0), Captioning)
    runs["filter"] = (plan.filter(1, 0), Retrieval)
    for stage, (run, objective) in runs.items():
        with named(stage, ": "):
            Trainer(run, objective, here, stop)
    _refuse_later_weights(plan)
    cleaning = config.capfilt
    network = config.pretrain.model.network()
    if cleaning.caption.max_length > network.max_positions:
        raise ConfigError(
            f"capfilt.caption.max_length {cleaning.caption.max_length}: the network has "
            f"{network.max_positions} positions"
        )
    try:
        replace(network, image_size=cleaning.model.image_size or network.image_size)
    except ValueError as error:
        raise ConfigError(f"capfilt.model: {error}") from None
    return pairs


def _refuse_later_weights(plan: Plan) -> None:
    """Later pretrainings go through other entries: one cleaned set in the place of the web."""
    data = plan.pretrain(1).data
    if data.weights is not None and len(data.weights) != len(data.train):
        raise ConfigError(
            f"pretrain.data.weights has {len(data.weights)} numbers, but from round 1 on there are "
            f"{len(data.train)} entries, the cleaned set and data.clean: name data.web by one "
            "folder, glob or range, and give a weight for it and for each entry of data.clean"
        )
