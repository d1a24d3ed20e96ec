"""A folder holds one experiment: its settings, and the pairs that they name."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.ablation.arms import ARMS
from engine.ablation.config import AblationConfig, WorldSection
from engine.ablation.experiment import Experiment
from engine.ablation.preparation import Preparation
from engine.config import ConfigError
from engine.stages import Stopped
from tests.shards import write_shards


class OneStep:
    """Stages that are stopped after the first thing that is asked of them."""

    def __init__(self) -> None:
        self.done = False

    def on_main(self, work: Callable[[], Any]) -> Any:
        """Do it, or stop."""
        if self.done:
            raise Stopped
        self.done = True
        return work()


class Alone:
    """Stages that do at once what the main process is to do."""

    def on_main(self, work: Callable[[], Any]) -> Any:
        """Do it."""
        return work()


def begin(folder: Path) -> None:
    """An experiment up to its first cell."""
    data = WorldSection(train=str(folder / "pairs"), eval=str(folder / "held"))
    config = AblationConfig(output_dir=str(folder / "out"), data=data)
    with pytest.raises(Stopped):
        Experiment(config, OneStep(), "").run()


def test_pairs_that_were_replaced_in_their_place_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "pairs", 6)
    write_shards(tmp_path / "held", 2)
    begin(tmp_path)
    begin(tmp_path)
    shutil.rmtree(tmp_path / "held")
    write_shards(tmp_path / "held", 3)
    with pytest.raises(ConfigError, match=r"on other pairs in the same places \(data.eval '"):
        begin(tmp_path)
    # A folder from before pairs were noted goes on.
    (tmp_path / "out" / "pairs.yaml").unlink()
    begin(tmp_path)


@pytest.mark.parametrize(("noise", "found"), [(0.01, "none"), (0.99, "all")])
def test_a_world_in_which_no_filter_could_be_judged_is_refused(
    tmp_path: Path, noise: float, found: str
) -> None:
    write_shards(tmp_path / "pairs", 12)
    data = WorldSection(train=str(tmp_path / "pairs"), eval="held")
    config = AblationConfig(output_dir=str(tmp_path / "out"), noise=noise, data=data)
    with pytest.raises(ConfigError, match=f"of the web's captions {found} are swapped"):
        _ = Preparation(config, Alone(), 0, "none", ARMS["none"]).world
