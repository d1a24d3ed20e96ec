"""A run can be poisoned, killed, stopped and moved to other ranks, and loses nothing."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from engine.checkpoint import newest_good
from tests.ranks import ROOT, environment, free_port, run_ranks, start_ranks
from tests.runs import losses, metrics, weights, write_config
from tests.shards import write_shards

TRAIN = ["-m", "tests.train_many"]


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    """Until a run has logged a step."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        path = run / "metrics.jsonl"
        if path.is_file() and len(path.read_text().splitlines()) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached: {process.communicate()[0]}")


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_poisoned_batch_changes_nothing_and_is_named(tmp_path: Path, stage: int) -> None:
    data = write_shards(tmp_path / "data", 48)
    settings = {"deepspeed": {"stage": stage}, "checkpoint": {"every": 1, "keep_last": 9}}
    config = write_config(tmp_path, "run", data, **settings)
    ended = run_ranks([*TRAIN, "--poison", "2", str(config)], ranks=2)
    assert ended.codes == [0, 0], ended.said
    before, after = weights(tmp_path / "run", 2), weights(tmp_path / "run", 3)
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    assert not changed
    last = weights(tmp_path / "run", 4)
    assert all(tensor.isfinite().all() for tensor in last.values() if tensor.is_floating_point())
    assert not torch.equal(last["image_queue"], after["image_queue"])
    assert metrics(tmp_path / "run")[-1]["skipped_steps"] == 1
    assert "step 2 was not finite and changed nothing; pixels" in ended.said[1]


def test_a_killed_run_goes_on_bit_by_bit(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 48)
    settings = {
        "train": {"max_steps": 30, "negative_group_size": 4},
        "model": {"dropout": 0.1},
        "checkpoint": {"every": 4, "keep_last": 3},
    }
    whole = write_config(tmp_path, "whole", data, **settings)
    broken = write_config(tmp_path, "broken", data, **settings)
    assert run_ranks([*TRAIN, str(whole)]).codes == [0]
    (process,) = start_ranks([*TRAIN, str(broken)])
    wait_for_step(tmp_path / "broken", 9, process)
    process.kill()
    process.communicate()
    resumed_from = int(newest_good(tmp_path / "broken" / "checkpoints").name[5:])
    assert resumed_from >= 4 and resumed_from % 4 == 0
    assert run_ranks([*TRAIN, str(broken)]).codes == [0]
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 30
    ours, theirs = weights(tmp_path / "broken", 30), weights(tmp_path / "whole", 30)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_ranks_may_change_and_no_sample_is_repeated_or_lost(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 48)
    ledger = tmp_path / "ledger"
    straight = write_config(tmp_path, "straight", data, train={"max_steps": 9})
    assert run_ranks([*TRAIN, str(straight)]).codes == [0]
    for ranks, steps, stage in ((2, 3, 1), (1, 6, 0), (2, 9, 3)):
        zero = {"stage": stage}
        config = write_config(tmp_path, "moved", data, train={"max_steps": steps}, deepspeed=zero)
        ended = run_ranks([*TRAIN, "--ledger", str(ledger), str(config)], ranks)
        assert ended.codes == [0] * ranks, ended.said
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
    config = write_config(tmp_path, "run", data, train={"max_steps": 2000})
    processes = start_ranks([*TRAIN, str(config)], ranks)
    wait_for_step(tmp_path / "run", 3, processes[0])
    processes[-1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [75] * ranks, said
    saved = newest_good(tmp_path / "run" / "checkpoints")
    assert int(saved.name[5:]) == metrics(tmp_path / "run")[-1]["step"]
    assert "saved; start again to continue" in said[0]


def test_a_full_disk_stops_with_one_line_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 48)
    config = write_config(tmp_path, "run", data)
    assert run_ranks([*TRAIN, str(config)]).codes == [0]
    longer = write_config(tmp_path, "run", data, train={"max_steps": 8})

    def limit() -> None:
        # What a full disk does to a write, on any machine and without being root.
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    done = subprocess.run(
        [sys.executable, *TRAIN, str(longer)],
        cwd=ROOT,
        env=environment(0, 1, free_port()),
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "the disk is full" in errors[0]
    assert "Traceback" not in done.stderr
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in sorted(folder.iterdir())] == ["step_00000004"]
    assert newest_good(folder) is not None


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 48)
    config = write_config(tmp_path, "run", data, train={"max_steps": 2000})
    (first,) = start_ranks([*TRAIN, str(config)])
    wait_for_step(tmp_path / "run", 1, first)
    second = run_ranks([*TRAIN, str(config)])
    os.kill(first.pid, signal.SIGTERM)
    first.communicate(timeout=60)
    assert (second.codes, first.returncode) == ([2], 75)
    assert "another run is writing here" in second.said[0]
