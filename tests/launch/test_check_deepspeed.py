"""`check.py` and the contents of deepspeed.config, which DeepSpeed itself reads."""

from pathlib import Path
from typing import Any

import pytest

from tests.check_runs import look, make_good, write_json


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place where nothing is wrong."""
    return make_good(tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize(
    ("tree", "severity", "line"),
    [
        ({"zero_optimization": {"bogus": 1}}, "error", "refuses it: unknown key 'bogus'"),
        (
            {"zero_optimization": {"overlap_com": True}},
            "error",
            "refuses it: unknown key 'overlap_com': did you mean 'overlap_comm'?",
        ),
        ({"zero_optimization": {"overlap_comm": "x"}}, "error", "overlap_comm: Input should be"),
        ({"zero_optimization": {"mics_shard_size": 2}}, "error", "MiCS ZeRO-3 sharding has been"),
        ({"flops_profiler": 3}, "error", "DeepSpeed refuses it: "),
        (
            {"wall_clock_breakdwn": True},
            "warning",
            "unknown key 'wall_clock_breakdwn': did you mean 'wall_clock_breakdown'?; DeepSpeed",
        ),
        ({"bogus": 1}, "warning", "unknown key 'bogus'; DeepSpeed ignores it: take it out"),
    ],
)
def test_what_deepspeed_does_not_know(
    place: Path, tree: dict[str, Any], severity: str, line: str
) -> None:
    write_json(place, tree)
    words = ["--deepspeed.config", str(place / "deepspeed.json"), "--deepspeed.stage", "1"]
    (found,) = look(place, *words)
    assert found.severity == severity
    assert line in found.line


def test_what_it_knows_is_taken(place: Path) -> None:
    beside = {"device": "cpu", "pin_memory": True}
    zero = {"offload_optimizer": beside, "stage3_prefetch_bucket_size": 1, "overlap_comm": True}
    tree = {"zero_optimization": zero, "wall_clock_breakdown": True, "prescale_gradients": False}
    write_json(place, tree | {"comms_logger": {"enabled": True}, "aio": {"queue_depth": 8}})
    words = ["--deepspeed.config", str(place / "deepspeed.json"), "--deepspeed.stage", "3"]
    assert look(place, *words) == []
