"""A run can be poisoned, killed, stopped and moved to other ranks, and loses nothing."""

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.checkpoint import newest_good
from engine.training.signals import SAME_REQUEST
from tests.forked import Running, end, run, start, succeed
from tests.runs import losses, metrics, weights, write_config
from tests.shards import write_shards

TRAIN = "tests.train_many"


def saved(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights, momentum side and AdamW's moments of a checkpoint."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    return weights(run, step) | load_file(folder / "optimizer.safetensors")


def facts(run: Path, step: int) -> dict[str, Any]:
    """The counters of a checkpoint."""
    return json.loads((run / "checkpoints" / f"step_{step:08d}" / "state.json").read_text())


def wait_for_stall(running: Running) -> None:
    """Until a rank waits for data."""
    running.until(lambda: "stalled" in running.log.read_text())


STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A NaN in a picture of the second rank in step 2, under every stage; what rank 0 said."""
    folder = tmp_path_factory.mktemp("poisoned")
    data = write_shards(folder / "data", 48)
    kept = {"checkpoint": {"every": 1, "keep_last": 9}}
    parts = {0: 4, 1: 8, 2: 4, 3: 4}
    configs = [
        write_config(
            folder,
            f"stage{stage}",
            data,
            deepspeed={"stage": stage},
            train={"global_batch_size": 16, "micro_batch_size": parts[stage]},
            **kept,
        )
        for stage in STAGES
    ]
    return folder, succeed(TRAIN, ["--poison", 2, *configs], folder / "log", ranks=2)[0]


@pytest.mark.xdist_group("poisoned")
@pytest.mark.parametrize("stage", STAGES)
def test_a_poisoned_batch_changes_nothing_and_the_run_goes_on(
    poisoned: tuple[Path, str], stage: int
) -> None:
    run = poisoned[0] / f"stage{stage}"
    before, after = saved(run, 2), saved(run, 3)
    assert [name for name, tensor in before.items() if not torch.equal(tensor, after[name])] == []
    last = saved(run, 4)
    assert all(tensor.isfinite().all() for tensor in last.values() if tensor.is_floating_point())
    assert not torch.equal(last["image_queue"], after["image_queue"])
    lines = metrics(run)
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 1]
    assert [line["loss_itc"] is None for line in lines] == [False, False, True, False]
    assert facts(run, 3)["updates"] == facts(run, 2)["updates"] == 2
    assert facts(run, 4)["updates"] == 3


@pytest.mark.xdist_group("poisoned")
def test_who_may_be_the_culprit_is_named_once_by_the_first_rank(poisoned: tuple[Path, str]) -> None:
    lines = [line for line in poisoned[1].splitlines() if "was not finite" in line]
    assert len(lines) == len(STAGES)
    named = re.compile(r"step 3 was not finite .*; loss of one of: (\d{5}, ){7}\d{5}$")
    assert all(named.search(line) for line in lines), lines


def test_a_loss_that_is_not_finite_refuses_the_step_whatever_its_gradient(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 48)
    configs = [
        write_config(
            tmp_path,
            f"stage{stage}",
            data,
            deepspeed={"stage": stage},
            train={"max_skipped_in_a_row": 1},
            checkpoint={"every": 1, "keep_last": 9},
        )
        for stage in (0, 2)
    ]
    for config in configs:
        ended = run(TRAIN, ["--infinite", 2, config], tmp_path / "log", ranks=2)
        assert [code for code, _ in ended] == [2, 2], ended
        said = ended[0][1]
        assert "loss of one of: " in said
        assert "1 steps in a row were not finite" in said
        assert newest_good(tmp_path / config.stem / "checkpoints").name == "step_00000002"


def test_a_killed_run_goes_on_bit_by_bit(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 48)
    settings = {
        # Checkpoints fall into the middle of a logged interval.
        "train": {"max_steps": 30, "log_every": 3},
        "model": {"dropout": 0.1},
        "checkpoint": {"every": 4, "keep_last": 3},
    }
    whole = write_config(tmp_path, "whole", data, **settings)
    broken = write_config(tmp_path, "broken", data, **settings)
    succeed(TRAIN, [whole], tmp_path / "log")
    ((code, said),) = run(TRAIN, ["--kill", 11, broken], tmp_path / "log")
    assert code == -signal.SIGKILL, said
    assert newest_good(tmp_path / "broken" / "checkpoints").name == "step_00000008"
    succeed(TRAIN, [broken], tmp_path / "log")
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert [line["step"] for line in metrics(tmp_path / "broken")] == list(range(3, 31, 3))
    ours, theirs = weights(tmp_path / "broken", 30), weights(tmp_path / "whole", 30)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_death_of_another_process_is_one_line(tmp_path: Path) -> None:
    config = write_config(tmp_path, "run", write_shards(tmp_path / "data", 48))
    first, second = run(TRAIN, ["--kill", 2, config], tmp_path / "log", ranks=2)
    assert second[0] == -signal.SIGKILL
    assert first[0] == 1
    line = "error: another process of this run has died; what was saved is there: start again\n"
    assert first[1].endswith(line)
    assert "Traceback" not in first[1]


def test_ranks_may_change_and_no_sample_is_repeated_or_lost(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 48)
    ledger = tmp_path / "ledger"
    straight = write_config(tmp_path, "straight", data, train={"max_steps": 9})
    succeed(TRAIN, [straight], tmp_path / "log")
    for ranks, steps, stage in ((2, 3, 1), (1, 6, 0), (2, 9, 3)):
        zero = {"stage": stage}
        config = write_config(tmp_path, "moved", data, train={"max_steps": steps}, deepspeed=zero)
        succeed(TRAIN, ["--ledger", ledger, config], tmp_path / "log", ranks)
    lines = [json.loads(line) for p in tmp_path.glob("ledger.*") for line in p.open()]
    keys = [key for line in lines for key in line["keys"]]
    assert sorted(line["step"] for line in lines) == sorted([0, 1, 2, 6, 7, 8] * 2 + [3, 4, 5])
    first_epoch = [key for line in lines if line["step"] < 6 for key in line["keys"]]
    assert sorted(first_epoch) == [f"{number:05d}" for number in range(48)]
    assert len(keys) == 72
    moved, one = losses(tmp_path / "moved"), losses(tmp_path / "straight")
    for step, values in one.items():
        assert moved[step] == pytest.approx(values, rel=1e-4), step


@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_saves_and_exits_with_75(tmp_path: Path, ranks: int) -> None:
    data = write_shards(tmp_path / "data", 48)
    config = write_config(tmp_path, "run", data)
    ended = run(TRAIN, ["--terminate", 3, config], tmp_path / "log", ranks)
    assert [code for code, _ in ended] == [75] * ranks, ended
    assert newest_good(tmp_path / "run" / "checkpoints").name == "step_00000003"
    assert metrics(tmp_path / "run")[-1]["step"] == 3
    assert "saved; start again to continue" in ended[0][1]


def test_a_stop_is_honoured_while_data_does_not_come(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 48)
    config = write_config(tmp_path, "run", data)
    running = start(TRAIN, ["--stall", 2, config], tmp_path / "log", ranks=2)
    wait_for_stall(running[-1])
    for one in running:
        os.kill(one.process.pid, signal.SIGTERM)
    ended = end(running)
    assert [code for code, _ in ended] == [75, 75], ended
    assert newest_good(tmp_path / "run" / "checkpoints").name == "step_00000002"


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 48)
    config = write_config(tmp_path, "run", data)
    first, second = start(TRAIN, ["--stall", 2, config], tmp_path / "log", ranks=2)
    wait_for_stall(second)
    # The first rank waits for the second to agree, and for ever if it is not told twice. Signals
    # that reach it together, when it has not run for a while, are one.
    while first.process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(first.process.pid, signal.SIGINT)
        time.sleep(1.2 * SAME_REQUEST)
    assert first.end()[0] == 128 + signal.SIGINT
    second.process.kill()
    assert second.end()[0] == -signal.SIGKILL


def test_a_full_disk_stops_with_one_line_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 48)
    config = write_config(tmp_path, "run", data)
    succeed(TRAIN, [config], tmp_path / "log")
    longer = write_config(tmp_path, "run", data, train={"max_steps": 8})
    ((code, said),) = run(TRAIN, ["--room", 4 << 20, longer], tmp_path / "log")
    assert code == 2, said
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "the disk is full" in errors[0]
    assert "Traceback" not in said
    folder = tmp_path / "run" / "checkpoints"
    assert {path.name for path in folder.iterdir()} - {".lock"} == {"step_00000004"}
    assert newest_good(folder) is not None


def test_a_resumed_run_holds_no_checkpoint(tmp_path: Path) -> None:
    """One that is pruned would keep its room on the disk as long as a process has it mapped."""
    data = write_shards(tmp_path / "data", 48)
    succeed(TRAIN, [write_config(tmp_path, "run", data)], tmp_path / "log")
    config = write_config(tmp_path, "run", data, train={"max_steps": 9})
    (resumed,) = start(TRAIN, ["--stall", 6, config], tmp_path / "resumed.log")
    wait_for_stall(resumed)
    mapped = Path(f"/proc/{resumed.process.pid}/maps").read_text()
    os.kill(resumed.process.pid, signal.SIGTERM)
    assert resumed.end()[0] == 75
    assert "at step 4" in resumed.log.read_text()
    assert ".safetensors" not in mapped


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 48)
    config = write_config(tmp_path, "run", data)
    (first,) = start(TRAIN, ["--stall", 1, config], tmp_path / "first.log")
    wait_for_stall(first)
    second = run(TRAIN, [config], tmp_path / "second.log", ranks=2)
    os.kill(first.process.pid, signal.SIGTERM)
    assert ([code for code, _ in second], first.end()[0]) == ([2, 2], 75), second
    assert "another run is writing here" in second[0][1]
    assert "Traceback" not in second[0][1] + second[1][1]
