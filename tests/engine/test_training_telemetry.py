"""Lines of metrics.jsonl: of the steps since the last line alone, losses as well as speed."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.config import RunConfig, TrainSection
from engine.curriculum import CurriculumStage
from engine.data.section import DataSection
from engine.runtime import Runtime
from engine.training import telemetry
from engine.training.telemetry import Telemetry, clock, peak_flops
from tests.runs import metrics

CONFIG = RunConfig(tensorboard=False, train=TrainSection(global_batch_size=8, log_every=5))
CPU = torch.device("cpu")
ALONE = Runtime(0, 1, CPU)


class OfTwo(Runtime):
    """The first of two processes, the other one of which has as much."""

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A clock whose `seconds` are set."""
    hand = SimpleNamespace(seconds=100.0)
    ticking = SimpleNamespace(perf_counter=lambda: hand.seconds)
    monkeypatch.setattr(telemetry, "time", ticking)
    return hand


def told(
    folder: Path, start: int = 0, config: RunConfig = CONFIG, runtime: Runtime = ALONE
) -> Telemetry:
    """Telemetry of ten steps with two losses, 1,000 FLOP a pair."""
    return Telemetry(folder, config, runtime, ("loss_itc", "loss_lm"), start, 10, 1000.0)


def made(folder: Path, names: str) -> str:
    """Folders of one letter each."""
    for name in names:
        (folder / name).mkdir()
    return names


def test_speed_is_that_of_the_steps_since_the_last_line(
    tmp_path: Path, now: SimpleNamespace
) -> None:
    one = told(tmp_path, start=2)
    one.waited(0.25)
    one.waited(0.25)
    now.seconds += 2
    one.log(6, 1e-3, None, 0)
    now.seconds += 4
    one.log(8, 1e-3, None, 0)
    names = ("images_per_second", "data_wait_fraction", "eta_seconds")
    first, second = ([line[name] for name in names] for line in metrics(tmp_path))
    assert first == [16.0, 0.25, 2.0]
    assert second == [4.0, 0.0, 4.0]


def test_losses_are_means_of_the_accepted_steps_since_the_last_line(tmp_path: Path) -> None:
    one = told(tmp_path)
    for values in ((1.0, 4.0), (3.0, 8.0)):
        one.add(torch.tensor(values, dtype=torch.float64))
    one.skip()
    one.log(3, 1e-3, 0.07, 2)
    one.add(torch.tensor([5.0, 7.0], dtype=torch.float64))
    one.log(4, 1e-3, 0.07, 2)
    one.skip()
    one.log(5, 1e-3, 0.07, 2)
    names = ("loss_itc", "loss_itm", "loss_lm", "skipped_steps", "samples_seen")
    lines = [[line[name] for name in names] for line in metrics(tmp_path)]
    assert lines == [[2.0, None, 6.0, 1, 24], [5.0, None, 7.0, 1, 32], [None, None, None, 2, 40]]


def test_a_line_that_a_stop_cuts_is_the_same_afterwards(tmp_path: Path) -> None:
    whole, before, after = (told(tmp_path / name) for name in made(tmp_path, "wba"))
    losses = torch.tensor([[1.0, 4.0], [3.0, 9.0], [5.0, 2.0]], dtype=torch.float64)
    for values in losses:
        whole.add(values)
    for values in losses[:2]:
        before.add(values)
    after.resume(before.unfinished(), 4)
    after.add(losses[2])
    after.log(3, 1e-3, None, 0)
    whole.log(3, 1e-3, None, 0)
    (one,), (other,) = metrics(tmp_path / "w"), metrics(tmp_path / "a")
    assert [one[name] for name in ("loss_itc", "loss_lm")] == [3.0, 5.0]
    assert [other[name] for name in ("loss_itc", "loss_lm", "skipped_steps")] == [3.0, 5.0, 4]


def test_the_mfu_is_of_all_gpus_and_of_one_size_of_work(
    tmp_path: Path, now: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "peak_flops", lambda device: 5000.0)
    stages = (CurriculumStage(until_step=4, max_tokens=10),)
    smaller = RunConfig(tensorboard=False, data=DataSection(curriculum=stages), train=CONFIG.train)
    ways = {"a": (CONFIG, ALONE), "b": (CONFIG, OfTwo(0, 2, CPU)), "c": (smaller, ALONE)}
    made(tmp_path, "abc")
    every = [told(tmp_path / name, 0, *how) for name, how in ways.items()]
    now.seconds += 8
    for one in every:
        one.log(3, 1e-3, None, 0)
    # 3 steps of 8 pairs in 8 seconds: 3,000 FLOP/s.
    found = [metrics(tmp_path / name)[0]["mfu"] for name in ways]
    assert found == [pytest.approx(0.6), pytest.approx(0.3), None]


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_the_peak_is_that_of_the_data_sheet_or_unknown(
    name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == peak
    assert peak_flops(CPU) is None


def test_lines_of_every_run_of_which_nothing_is_left_are_kept(tmp_path: Path) -> None:
    for rate in (1e-3, 1e-4):
        one = told(tmp_path)
        one.log(1, rate, None, 0)
        one.close()
    told(tmp_path).close()
    before = (tmp_path / "metrics_before.jsonl").read_text().splitlines()
    assert ['"lr": 0.001,' in line for line in before] == [True, False]
    assert len(before) == 2
    assert metrics(tmp_path) == []


def test_lines_that_a_run_makes_again_go_and_gaps_of_an_interval_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.yaml").touch()
    one = told(tmp_path)
    for step in (5, 10, 15):
        one.log(step, 1e-3, None, 0)
    one.close()
    with caplog.at_level(logging.WARNING):
        told(tmp_path, start=10).close()
        told(tmp_path, start=15).close()
        assert [line["step"] for line in metrics(tmp_path)] == [5, 10]
        assert not caplog.messages
        told(tmp_path, start=16).close()
    (said,) = caplog.messages
    assert said.endswith("has no line of steps 11 to 16")


def test_times_are_read_as_clocks_show_them() -> None:
    assert [clock(s) for s in (0, 59.9, 65, 3600, 3725)] == [
        "0:00",
        "0:59",
        "1:05",
        "1:00:00",
        "1:02:05",
    ]
