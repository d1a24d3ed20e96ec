"""`deepspeed launch/pretrain.py` as users start it: ranks, machines, signals, SLURM."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.checkpoint import newest_good
from tests import terminal
from tests.forked import succeed
from tests.ranks import free_port
from tests.runs import losses, write_config
from tests.shards import write_shards

DEEPSPEED = Path(sys.executable).with_name("deepspeed")
# More steps than can be made while a test waits for anything.
ENDLESS = 10**7

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def wait_until(found: Path, process: subprocess.Popen, seconds: float = 600) -> None:
    """Until a path is there and holds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if found.exists() and (found.is_dir() or found.stat().st_size):
            return
        time.sleep(0.02)
    raise AssertionError(f"{found} did not appear: {terminal.kill(process)}")


@pytest.mark.parametrize("sent", ["ctrl-c", "sigterm", "sigterm to all"])
def test_a_signal_to_the_launcher_saves_the_run(tmp_path: Path, sent: str) -> None:
    data = write_shards(tmp_path / "data", 48)
    config = write_config(tmp_path, "run", data, train={"max_steps": ENDLESS})
    port = str(free_port())
    words = ["--num_accelerators", "2", "--master_port", port, "launch/pretrain.py"]
    process = terminal.start([DEEPSPEED, *words, "--config", config, "--data.workers", 1])
    wait_until(tmp_path / "run" / "metrics.jsonl", process)
    if sent == "sigterm":
        os.kill(process.pid, signal.SIGTERM)
    else:
        # Loader processes are sent it too, and by the launcher once more.
        os.killpg(process.pid, signal.SIGINT if sent == "ctrl-c" else signal.SIGTERM)
    # Ends when the last process that writes there has ended, not with the command itself.
    said = terminal.finish(process, 600)
    assert "saved; start again to continue" in said
    assert "[rank0]: Traceback" not in said
    saved = newest_good(tmp_path / "run" / "checkpoints")
    assert int(saved.name[5:]) == max(losses(tmp_path / "run"))


def submit(folder: Path, config: Path) -> subprocess.Popen:
    """`launch/slurm.sh` on two machines, with stand-ins for SLURM's own programs: there is no
    scheduler on a test machine."""
    programs = {
        # The script takes the address from the first host name, and others do not resolve here.
        "scontrol": "echo 127.0.0.1\nif [[ $1 == show ]]; then echo localhost; else echo $@; fi",
        # Everything after srun's own flags, once a machine.
        "srun": 'if [[ $1 == --overlap ]]; then shift 2; exec "$@"; fi\n'
        'shift; SLURM_NODEID=0 "$@" & a=$!; SLURM_NODEID=1 "$@" & b=$!; wait $a; wait $b',
    }
    for name, body in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\nset -e\n{body}\n")
        (folder / name).chmod(0o755)
    return terminal.start(
        ["bash", "launch/slurm.sh", "--config", config],
        PATH=f"{folder}:{os.environ['PATH']}",
        # The script takes a port by it.
        SLURM_JOB_ID=str(free_port()),
        SLURM_JOB_NODELIST="two",
        SLURM_SUBMIT_DIR=str(folder),
    )


def test_machines_of_a_hostfile_train_as_one_process(tmp_path: Path) -> None:
    """Two launchers, as the SLURM script starts them: one a machine, without ssh."""
    data = write_shards(tmp_path / "data", 48)
    config = write_config(tmp_path, "two", data, deepspeed={"stage": 1})
    job = submit(tmp_path, config)
    said = terminal.finish(job, 800)
    assert job.returncode == 0, said
    assert "on 2 process(es)" in said
    assert not list(tmp_path.glob(".hosts.*"))
    alone = ["--config", config, "--output_dir", tmp_path / "one"]
    succeed("launch.pretrain", alone, tmp_path / "log")
    ours, theirs = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert set(ours) == set(theirs) == {1, 2, 3, 4}
    for step, values in theirs.items():
        assert ours[step] == pytest.approx(values, rel=1e-4), step


def test_a_job_near_its_limit_saves_and_is_queued_again(tmp_path: Path) -> None:
    """No launcher is asked, which would kill its ranks while they still save."""
    data = write_shards(tmp_path / "data", 48)
    job = submit(tmp_path, write_config(tmp_path, "run", data, train={"max_steps": ENDLESS}))
    wait_until(tmp_path / "run" / "metrics.jsonl", job)
    os.kill(job.pid, signal.SIGTERM)
    said = terminal.finish(job, 600)
    assert job.returncode == 0, said
    assert "saved; start again to continue" in said
    assert "Main process received" not in said
    assert "requeue" in said
    saved = newest_good(tmp_path / "run" / "checkpoints")
    assert int(saved.name[5:]) == max(losses(tmp_path / "run"))


def test_an_error_ends_a_run_whose_pairs_other_processes_load(tmp_path: Path) -> None:
    """Python waits for these processes at its end."""
    config = write_config(tmp_path, "run", write_shards(tmp_path / "data", 48))
    words = [sys.executable, "launch/pretrain.py", "--config", config, "--data.workers", "1"]
    # No checkpoint fits into files that small.
    limited = ["bash", "-c", 'ulimit -f 64; exec "$@"', "bash", *map(str, words)]
    ended = subprocess.run(limited, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: checkpoint of step")
    assert "its files may grow no larger" in last
    assert "intact" not in last
