"""Limits of the control group that a process is in, and of those around it."""

from pathlib import Path

import pytest

from engine.machine import core_share, memory_limit


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc that the test fills."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    return tmp_path / "proc"


def test_the_smallest_limit_on_the_way_up_holds(tmp_path: Path, proc: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/slurm/job_7/step_0\n")
    job = tmp_path / "slurm" / "job_7"
    (job / "step_0").mkdir(parents=True)
    (job / "step_0" / "cpu.max").write_text("max 100000\n")
    (job / "step_0" / "memory.max").write_text("max\n")
    (job / "cpu.max").write_text("200000 100000\n")
    (job / "memory.max").write_text(f"{1 << 30}\n")
    (job.parent / "cpu.max").write_text("800000 100000\n")
    assert (core_share(tmp_path, proc), memory_limit(tmp_path, proc)) == (2.0, 1 << 30)
    (job / "step_0" / "memory.max").write_text(f"{1 << 29}\n")
    assert memory_limit(tmp_path, proc) == 1 << 29


def test_old_groups_are_found_by_their_controllers(tmp_path: Path, proc: Path) -> None:
    lines = ["5:cpu,cpuacct:/docker/a", "4:memory:/docker/b", "1:name=systemd:/x", "0::/none"]
    (proc / "self" / "cgroup").write_text("\n".join(lines) + "\n")
    for name in ("cpu/docker/a", "memory/docker/b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "cpu" / "docker" / "a" / "cpu.cfs_quota_us").write_text("150000\n")
    (tmp_path / "cpu" / "docker" / "a" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "memory" / "docker" / "b" / "memory.limit_in_bytes").write_text(f"{1 << 30}\n")
    # What stands for none.
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert (core_share(tmp_path, proc), memory_limit(tmp_path, proc)) == (1.5, 1 << 30)
