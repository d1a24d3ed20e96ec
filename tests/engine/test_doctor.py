"""The doctor: probes that crash or hang are findings, faults are found, the page is narrow."""

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.doctor import libraries, system
from engine.doctor.isolated import each_isolated, isolated
from engine.doctor.judge import judge
from engine.doctor.table import WIDTH, page
from engine.machine import core_share, cpu_flags, memory_limit, multiplies_bf16, processor
from tests.machines import CPU, GPU, Facts, few_files, good_machine


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang() -> None:
    time.sleep(600)


def raise_it() -> None:
    raise RuntimeError("no such device\nand more")


def test_what_a_probe_returns_comes_back() -> None:
    large = {"text": "x" * 1_000_000, "list": [1, None, 2.5]}
    assert isolated(lambda: large, 60).facts == large


@pytest.mark.parametrize(
    ("probe", "problem"),
    [
        (crash, "crashed: SIGSEGV"),
        (raise_it, "RuntimeError: no such device"),
        (lambda: os._exit(3), "ended with 3"),
        (lambda: object(), "TypeError: "),
    ],
)
def test_a_probe_that_fails_is_a_problem(probe: Callable[[], Any], problem: str) -> None:
    outcome = isolated(probe, 60)
    assert outcome.facts is None
    assert outcome.problem is not None
    assert outcome.problem.startswith(problem)


def test_a_probe_that_hangs_is_stopped() -> None:
    outcome = isolated(hang, 0.2)
    assert outcome.problem == "gave no answer in 0.2 s and was stopped"


def test_what_a_probe_prints_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    def loud() -> int:
        os.write(1, b"out")
        os.write(2, b"err")
        print("more")
        return 3

    assert isolated(loud, 60).facts == 3
    assert capfd.readouterr() == ("", "")


def test_one_that_crashes_takes_no_other_with_it() -> None:
    found = each_isolated({"good": lambda: 1, "bad": crash, "wrong": raise_it}, 60)
    assert {name: outcome["facts"] for name, outcome in found.items()} == {
        "good": 1,
        "bad": None,
        "wrong": None,
    }
    assert found["bad"]["problem"] == "crashed: SIGSEGV"


def test_probes_of_a_probe_end_with_it() -> None:
    """A child that is stopped leaves nothing running: nobody holds the pipe any more."""

    def hangs_in_a_probe(writer: int) -> None:
        def inner() -> None:
            os.write(writer, b"x")
            hang()

        isolated(inner, 600)

    # Until it is stopped only after the inner one has begun.
    for seconds in (1.0, 10.0, 100.0):
        reader, writer = os.pipe()
        isolated(lambda end=writer: hangs_in_a_probe(end), seconds)
        os.close(writer)
        with os.fdopen(reader, "rb") as told:
            began = told.read() == b"x"
        if began:
            break
    assert began


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A /proc and a control group of another machine."""
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512f\n"
    )
    (tmp_path / "meminfo").write_text(
        "MemTotal:       16777216 kB\nMemAvailable:    1048576 kB\n"
        "SwapTotal:       8388608 kB\nSwapFree:        4194304 kB\n"
    )
    (tmp_path / "mounts").write_text(f"/dev/a / ext4 rw 0 0\nnone {tmp_path} nfs4 rw 0 0\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2 << 30}\n")
    return tmp_path


def test_a_machine_is_read_from_its_files(planted: Path) -> None:
    assert processor(planted) == "Some CPU @ 2 GHz"
    assert cpu_flags(planted) == ["avx2", "avx512f"]
    assert not multiplies_bf16(planted)
    assert core_share(planted) == 1.5
    assert memory_limit(planted) == 2 << 30
    facts = system.memory_facts(planted, planted)
    assert facts == {
        "total_gib": 16.0,
        "available_gib": 1.0,
        "limit_gib": 2.0,
        "swap_gib": 8.0,
        "swap_used_gib": 4.0,
    }


def test_old_control_groups_and_none(tmp_path: Path) -> None:
    assert core_share(tmp_path) is None
    assert memory_limit(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert core_share(tmp_path) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("400000\n")
    assert core_share(tmp_path) == 4.0


def test_this_machine_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    facts = system.processor_facts()
    assert (facts["threads_set"], facts["name"]) == ("7", processor())
    assert 1 <= facts["cores"] <= facts["cores_of_machine"]
    memory = system.memory_facts()
    assert 0 < memory["available_gib"] < memory["total_gib"]


def test_limits_are_read(tmp_path: Path) -> None:
    with few_files() as few:
        facts = system.limit_facts(tmp_path / "no_shared_memory")
    assert (facts["open_files"], facts["shared_memory_gib"]) == (few, None)


def test_a_disk_is_measured_and_left_as_it_was(planted: Path) -> None:
    (planted / "runs").mkdir()
    facts = system.disk_facts(str(planted / "runs" / "mine" / "new"), planted)
    assert facts["folder"] == str(planted / "runs")
    assert facts["kind"] == "nfs4"
    assert facts["locks"]
    assert min(facts["write_mb_s"], facts["read_mb_s"], facts["free_gb"]) > 0
    assert list((planted / "runs").iterdir()) == []


def test_a_file_is_no_folder_for_runs(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a")
    with pytest.raises(OSError, match="taken is a file"):
        system.disk_facts(str(tmp_path / "taken"))


def test_a_disk_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """Files larger than a process may write fail like a full disk, for any user."""

    def probe() -> Facts:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        return system.disk_facts(str(tmp_path))

    outcome = isolated(probe, 60)
    found = good_machine() | {"disk": {"facts": None, "problem": outcome.problem}}
    (finding,) = judge(found)
    assert (finding.severity, finding.name) == ("error", "disk_failed")
    assert "File too large" in finding.line
    assert list(tmp_path.iterdir()) == []


def test_packages_are_those_of_the_project() -> None:
    found = libraries.required()
    assert {"torch", "deepspeed", "pillow"} <= set(found)
    assert all(package["fits"] for package in found.values()), found
    facts = libraries.pillow()
    assert facts["formats"] == {"JPEG": True, "PNG": True, "WEBP": True}
    soft = libraries.optional()
    assert {"triton", "xformers", "flash-attn", "vocabulary"} <= set(soft)
    assert all(package["gives"] and package["mend"] for package in soft.values())


@pytest.mark.parametrize("gpu", [False, True])
def test_nothing_is_wrong_with_a_good_machine(gpu: bool) -> None:
    assert judge(good_machine(gpu)) == []


@pytest.mark.parametrize(
    ("gpu", "section", "change", "name", "advice"),
    [*((False, *case) for case in CPU), *((True, *case) for case in GPU)],
    ids=[case[2] for case in [*CPU, *GPU]],
)
def test_a_planted_fault_is_found_and_nothing_else(
    gpu: bool, section: str, change: Facts, name: str, advice: str
) -> None:
    found = good_machine(gpu)
    found[section]["facts"] |= change
    (finding,) = judge(found)
    assert finding.name == name
    assert advice in finding.line


@pytest.mark.parametrize(
    ("change", "name"),
    [({"capability": "7.5"}, "gpu_old"), ({"free_gib": 10.0}, "gpu_busy")],
)
def test_faults_of_a_gpu(change: Facts, name: str) -> None:
    found = good_machine(gpu=True)
    found["torch"]["facts"]["architectures"].append("sm_75")
    found["gpus"]["facts"][0] |= change
    assert [finding.name for finding in judge(found)] == [name]


def test_what_other_containers_run_is_no_fault_of_a_small_one() -> None:
    found = good_machine()
    found["processor"]["facts"] |= {"cores": 2, "cores_of_machine": 64, "load": 30.0}
    assert judge(found) == []


def test_kernels_that_are_broken_are_told_from_those_that_need_a_gpu() -> None:
    found = good_machine()
    found["attention"]["flash_attn_2"] = {"problem": "RuntimeError: cannot run here: needs a GPU"}
    assert judge(found) == []
    found["attention"]["flash_attn_3"] = {"problem": "crashed: SIGSEGV"}
    assert [finding.name for finding in judge(found)] == ["kernel_broken"]
    found = good_machine(gpu=True)
    found["triton"]["add_norm"] = {"problem": "RuntimeError: no compiler"}
    (finding,) = judge(found)
    assert (finding.name, "pip install the Triton" in finding.line) == ("triton_broken", True)


def test_everything_that_fails_at_once_is_told() -> None:
    found = good_machine()
    for outcome in list(found.values())[:-2]:
        outcome |= {"facts": None, "problem": "crashed: SIGSEGV"}
    found["gpus"]["facts"] = None
    findings = judge(found)
    errors = {finding.name for finding in findings if finding.severity == "error"}
    assert errors == {f"{name}_failed" for name in (
        "torch", "deepspeed", "collectives", "pillow", "disk"
    )}  # fmt: skip
    assert len(findings) == len(found) - 2
    assert page(found, findings)


@pytest.mark.parametrize("gpu", [False, True])
def test_what_only_a_gpu_uses_is_advised_where_there_is_one(gpu: bool) -> None:
    found = good_machine(gpu)
    soft = libraries.optional()
    found["optional"]["facts"] = {
        name: package | {"active": False} for name, package in soft.items()
    }
    text = page(found, [])
    assert "pip install s3fs" in text
    for name in ("triton", "flash-attn", "xformers", "nvidia-dali-cuda120", "torchvision"):
        assert (f"pip install {name}" in " ".join(text.split())) is gpu


@pytest.mark.parametrize("gpu", [False, True])
def test_the_page_fits_a_terminal(gpu: bool) -> None:
    found = good_machine(gpu)
    found["attention"] |= {f"backend_{n}": {"problem": "because of this"} for n in range(9)}
    found["disk"]["facts"]["free_gb"] = 1.0
    text = page(found, judge(found))
    assert max(len(line) for line in text.splitlines()) <= WIDTH < 80
    assert "error" not in text
    assert "make room" in " ".join(text.split())
