"""`bootstrap.json`: how the rounds went and where they lie, in one file that anyone can read.

It holds no time and no machine: like all the output, it is a function of pairs, settings and seed.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.bootstrap.config import STAGES, BootstrapConfig
from engine.config import ConfigError, to_dict
from engine.differences import differences, flat
from engine.durable import partial_of, write_whole

STATE, SETTINGS = "bootstrap.json", "config.yaml"
LOCK = ".lock"
FORMAT = 1
RUNNING, DONE = "running", "done"
# Settings that may differ when a loop goes on: none of them changes a number. What the named pairs
# are is looked at instead of where they lie; the guard's limits are those of the verdicts to come.
FREE = {"output_dir", "resume", "device", "rounds", "guard", "data"}
OF_A_RUN = ("tensorboard", "checkpoint", "deepspeed", "data.workers", "data.max_bad_fraction")
OF_A_RUN += ("train.micro_batch_size", "train.log_every", "train.max_skipped_in_a_row")
FREE |= {f"{stage}.{key}" for stage in STAGES[:3] for key in OF_A_RUN}
FREE |= {"capfilt.data.workers", "capfilt.lease_seconds"}


@dataclass
class Round:
    """A round as far as it got.

    Attributes:
        round: its number; 0 is the first pretraining.
        accepted: the guard's verdict; None as long as there is none.
        reasons: why it was rejected.
        guard: what the verdict rests on, by name; shares in [0, 1].
        folders: of the stages that were begun, from the loop's output_dir on.
        stages: `running` or `done`, of those that were begun.
        start: the round whose model captioner and filter go on from; None in round 0.
    """

    round: int
    accepted: bool | None = None
    reasons: list[str] = field(default_factory=list)
    guard: dict[str, float] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    start: int | None = None


class State:
    """The rounds of a loop.

    Args:
        config: of the loop.
        pairs: fingerprints of the sets of pairs, by name.
        rounds: what is known of them, in order.
    """

    def __init__(self, config: BootstrapConfig, pairs: dict[str, str], rounds: list[Round]) -> None:
        self.config, self.pairs, self.rounds = config, pairs, rounds

    @property
    def accepted(self) -> list[Round]:
        """Rounds whose model may be gone on from."""
        return [one for one in self.rounds if one.accepted]

    @property
    def last_good(self) -> Round | None:
        """The round that the next one goes on from."""
        return self.accepted[-1] if self.accepted else None

    @property
    def best(self) -> Round | None:
        """The accepted round whose model retrieves best; of equal ones the first."""
        return max(self.accepted, key=lambda one: one.guard["retrieval_r1"], default=None)

    def round(self, number: int) -> Round:
        """The round of this number, which may be the next new one."""
        if number == len(self.rounds):
            start = self.last_good
            self.rounds.append(Round(number, start=start.round if start else None))
        return self.rounds[number]

    def to_json(self) -> dict[str, Any]:
        """What the file holds."""
        return {
            "format": FORMAT,
            "rounds": [asdict(one) for one in self.rounds],
            "best_round": self.best.round if self.best else None,
            "last_good_round": self.last_good.round if self.last_good else None,
            "settings": settings_of(self.config, self.pairs),
        }

    def save(self) -> None:
        """Write the file whole and durably, or not at all.

        Raises:
            ConfigError: the disk refuses.
        """
        path = Path(self.config.output_dir) / STATE
        try:
            write_whole(path, (json.dumps(self.to_json(), indent=1) + "\n").encode())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def settings_of(config: BootstrapConfig, pairs: dict[str, str]) -> dict[str, Any]:
    """Settings by dotted name that a loop must keep, and the fingerprints of its pairs."""
    return _kept(flat({**to_dict(config), "pairs": pairs}))


def _kept(given: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in given.items() if not any(f"{k}.".startswith(f"{f}.") for f in FREE)}


def open_state(config: BootstrapConfig, pairs: dict[str, str]) -> State:
    """What a folder knows of its rounds.

    Args:
        config: of the loop.
        pairs: fingerprints of the sets of pairs, by name.

    Raises:
        ConfigError: resume is `none` but it holds a loop; or it holds something else, a damaged
            state, or a loop with other settings or pairs, all of which are listed.
    """
    root = Path(config.output_dir)
    if root.exists() and not root.is_dir():
        raise ConfigError(f"output_dir {root} is a file")
    path = root / STATE
    if not path.exists():
        strangers = sorted(one.name for one in root.iterdir()) if root.is_dir() else []
        strangers = [name for name in strangers if name not in (LOCK, partial_of(path).name)]
        if strangers:
            raise ConfigError(
                f"output_dir {root} holds {strangers[0]} but no {STATE}: choose another output_dir"
            )
        return State(config, pairs, [])
    if config.resume == "none":
        raise ConfigError(
            f"{root} holds a loop already: choose another output_dir, or leave resume at auto to "
            "continue it"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rounds = [Round(**one) for one in found["rounds"]]
        # Loops from before there was that setting go on where it is off.
        theirs = _kept({"capfilt.rule.drop_not_words": False, **found["settings"]})
        if found["format"] != FORMAT or [one.round for one in rounds] != list(range(len(rounds))):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{path}: not a readable state of a loop of this version: put the file back as it was, "
            "or choose another output_dir"
        ) from None
    ours = settings_of(config, pairs)
    differing = differences(theirs, ours)
    if differing:
        raise ConfigError(
            f"{root} was made with other settings or pairs ({'; '.join(differing)}): change them "
            "back to continue, or choose another output_dir"
        )
    return State(config, pairs, rounds)
