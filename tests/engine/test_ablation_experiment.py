"""A folder holds one experiment: its settings, and the pairs that they name."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.ablation.config import AblationConfig, WorldSection
from engine.ablation.experiment import Experiment
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
