"""Named pipes and links that lead nowhere, where files should be: nobody waits, all are named."""

import os
from pathlib import Path

import pytest

from engine.config import ConfigError
from engine.data.open_source import open_source
from engine.pictures import find_pictures, open_picture
from tests.shards import picture


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.tsv", "pairs.json", "pairs.parquet", "a.tar"])
def test_a_pipe_is_no_list_and_no_shard(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match=f"{name}: .*not a file"):
        open_source(str(tmp_path / name))


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"a\.png: not a usable picture: not a file"):
        open_picture(tmp_path / "a.png")


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(picture(0))
    (tmp_path / "gone.png").symlink_to("missing.png")
    (tmp_path / "round.png").symlink_to("round.png")
    os.mkfifo(tmp_path / "pipe.png")
    names = [path.name for path in find_pictures(tmp_path)]
    assert names == ["gone.png", "pipe.png", "round.png", "there.png"]
    with pytest.raises(ConfigError, match=r"gone\.png: No such file or directory"):
        open_picture(tmp_path / "gone.png")
