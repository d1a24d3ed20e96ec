"""What the checks look at: a run, and of what it names as much as a few seconds allow."""

from dataclasses import dataclass
from functools import cached_property

import torch

from blip_model.config import BlipConfig
from engine.check.host import Host
from engine.check.pairs import PAIR_TASKS, Pairs, open_pairs
from engine.config import ConfigError, RunConfig
from engine.data.tokenizer import Tokenizer, open_tokenizer
from engine.findings import Finding, error
from engine.training import schedule
from engine.training.objectives import Built, Objective, pretraining
from engine.training.tuning import OBJECTIVES

PRETRAIN = "pretrain"


@dataclass(frozen=True)
class Setup:
    """A run that may begin.

    Attributes:
        config: of the run.
        task: `pretrain`, what is fine-tuned, or `capfilt`.
        ranks: processes that it will have.
        host: the machine's limits.
        tokenizer: None where there is none.
        objective: None where it cannot be made.
        train: pairs, None where none could be opened.
        held_out: the same for data.eval.
    """

    config: RunConfig
    task: str
    ranks: int
    host: Host
    tokenizer: Tokenizer | None
    objective: Objective | None
    train: Pairs | None
    held_out: Pairs | None

    @property
    def network(self) -> BlipConfig:
        """The network's shape."""
        return self.config.model.network()

    @property
    def ranks_here(self) -> int:
        """Processes that this machine would run: others are looked over on their own.

        More than there are cores, without a GPU, are meant for other machines.
        """
        if self.host.gpus and self.config.device != "cpu":
            return min(self.ranks, self.host.gpus)
        return self.ranks if self.ranks <= self.host.cores else 1

    @property
    def of_pairs(self) -> bool:
        """Whether the task learns from pictures with captions."""
        return self.task in PAIR_TASKS

    @property
    def contrasts(self) -> bool:
        """Whether the objective has momentum encoders and queues."""
        return self.task in (PRETRAIN, "retrieval", "video_retrieval")

    @property
    def steps(self) -> int | None:
        """Optimizer steps of the run, None where that is not known."""
        if self.train is None and self.config.train.max_steps is None:
            return None
        return schedule.total_steps(self.config.train, self.train.count if self.train else 1)

    @cached_property
    def built(self) -> Built | None:
        """The modules of the run, shapes alone: they take no memory."""
        if self.objective is None:
            return None
        with torch.device("meta"):
            return self.objective.build(fresh=False)


def open_setup(config: RunConfig, task: str, ranks: int, host: Host) -> tuple[Setup, list[Finding]]:
    """Open what a run names; what cannot be opened is a finding."""
    findings: list[Finding] = []
    tokenizer = objective = None
    try:
        tokenizer = open_tokenizer(config.model.vocabulary, config.model.network())
        kind = pretraining if task == PRETRAIN else OBJECTIVES[task]
        objective = kind(config, tokenizer)
    except ConfigError as problem:
        name = "vocabulary" if tokenizer is None else "objective"
        findings.append(error(name, str(problem)))
    data, sets = config.data, []
    for key, spec in (("data.train", data.train), ("data.eval", data.eval)):
        opened = None
        if key == "data.train" or spec:
            opened, wrong = open_pairs(key, spec or "", data.image_root, task)
            # The same folder is wrong for both sets.
            findings += [finding for finding in wrong if finding not in findings]
        sets.append(opened)
    return Setup(config, task, ranks, host, tokenizer, objective, *sets), findings
