"""What each stage of a round is run with: the user's section, and what the loop adds to it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from engine.bootstrap.config import TAKEN_OVER, BootstrapConfig, CaptionerConfig, FilterConfig
from engine.capfilt.config import CapFiltConfig
from engine.config import RunConfig

Run = TypeVar("Run", bound=RunConfig)


class Plan:
    """Settings and folders of every stage.

    Args:
        config: of the loop.
    """

    def __init__(self, config: BootstrapConfig) -> None:
        self.config, self.root = config, Path(config.output_dir)

    def folder(self, number: int, stage: str) -> str:
        """A stage's folder, from the loop's output_dir on."""
        return f"round_{number}/{stage}"

    def pretrain(self, number: int) -> RunConfig:
        """A pretraining from fresh weights: on web and clean pairs, later on cleaned and clean."""
        cleaned = [str(self.root / self.folder(number, "capfilt"))]
        web = cleaned if number else _listed(self.config.data.web)
        pairs = web + _listed(self.config.data.clean)
        return self._run(self.config.pretrain, number, "pretrain", pairs, self.config.seed)

    def captioner(self, number: int, start: int) -> CaptionerConfig:
        """The captioner of a round, from the pretraining of round `start`."""
        return self._tuned(self.config.captioner, number, "captioner", start)

    def filter(self, number: int, start: int) -> FilterConfig:
        """The filter of a round, from the pretraining of round `start`."""
        return self._tuned(self.config.filter, number, "filter", start)

    def capfilt(self, number: int) -> CapFiltConfig:
        """Captioning and filtering of the web pairs as they were at the very beginning."""
        section = self.config.capfilt
        pairs = replace(section.data, train=self.config.data.web)
        vocabulary = self.config.pretrain.model.vocabulary
        return replace(
            section,
            **self._shared(number, "capfilt", self.config.seed + number),
            captioner=str(self.root / self.folder(number, "captioner")),
            filter=str(self.root / self.folder(number, "filter")),
            data=pairs,
            model=replace(section.model, vocabulary=vocabulary),
        )

    def retrieval(self, number: int) -> RunConfig:
        """The evaluation of a round's new model on the held-out pairs."""
        run = self.pretrain(number)
        model = replace(run.model, checkpoint=run.output_dir)
        return replace(run, output_dir=f"{run.output_dir}/evaluation/retrieval", model=model)

    def _tuned(self, section: Run, number: int, stage: str, start: int) -> Run:
        pairs = _listed(self.config.data.clean)
        run = self._run(section, number, stage, pairs, self.config.seed + number)
        names = [key.partition(".")[2] for key in TAKEN_OVER[stage]]
        model: dict[str, Any] = {name: getattr(self.config.pretrain.model, name) for name in names}
        model["checkpoint"] = str(self.root / self.folder(start, "pretrain"))
        return replace(run, model=replace(section.model, **model))

    def _run(self, section: Run, number: int, stage: str, pairs: list[str], seed: int) -> Run:
        sets = self.config.data
        data = replace(section.data, train=pairs, eval=sets.eval, image_root=sets.image_root)
        return replace(section, **self._shared(number, stage, seed), data=data)

    def _shared(self, number: int, stage: str, seed: int) -> dict[str, Any]:
        config = self.config
        return {
            "output_dir": str(self.root / self.folder(number, stage)),
            "resume": "auto",
            "seed": seed,
            "precision": config.precision,
            "device": config.device,
        }


def _listed(spec: str | list[str]) -> list[str]:
    return [spec] if isinstance(spec, str) else list(spec)
