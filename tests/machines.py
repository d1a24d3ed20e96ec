"""What probes say of good machines, and what is wrong with others."""

import copy
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Facts = dict[str, Any]


@contextmanager
def few_files() -> Iterator[int]:
    """This process may have few open files, but more than it has, whatever ran in it before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/proc/self/fd")) + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        yield few
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def good_machine(gpu: bool = False) -> Facts:
    """Probes of a machine on which nothing is wrong."""
    card = {"name": "H", "capability": "9.0", "memory_gib": 80.0, "free_gib": 79.0}
    soft = dict.fromkeys(("triton", "C++ compiler", "vocabulary"))
    facts: Facts = {
        "processor": {
            "name": "A processor with a name that is long, for a machine of the year, 2.4 GHz",
            "cores": 8, "cores_of_machine": 8, "core_share": None, "instructions": ["avx2"],
            "bf16": True, "threads_set": None, "load": 0.1, "system": "Linux", "python": "3.11",
        },
        "memory": {
            "total_gib": 64.0, "available_gib": 60.0, "limit_gib": None, "swap_gib": 8.0,
            "swap_used_gib": 0.0,
        },
        "limits": {
            "shared_memory_gib": 32.0, "open_files": 65536, "open_files_most": 1 << 20,
            "file_size_gib": None, "container": True,
        },
        "disk": {
            "folder": "/runs", "kind": "ext4", "free_gb": 500.0, "write_mb_s": 900.0,
            "read_mb_s": 2000.0, "locks": True,
        },
        "required": {"torch": {"asked": ">=2", "version": "2.13", "fits": True}},
        "optional": {
            name: {"active": True, "version": "1", "gives": "much", "mend": "pip"} for name in soft
        },
        "pillow": {
            "version": "13", "formats": {"JPEG": True, "PNG": True}, "libjpeg_turbo": True,
            "jpeg_512_a_second": 500, "others": [],
        },
        "torch": {
            "version": "2.13", "cuda_build": "13.0" if gpu else None, "cuda": gpu, "cudnn": None,
            "architectures": ["sm_80", "sm_90"] if gpu else [], "driver": "580" if gpu else None,
            "driver_loaded": gpu, "visible": None, "threads": 8, "numpy": "2",
        },
        "triton_version": {"asked": "==3.7", "version": "3.7", "fits": True},
        "gpus": [card] if gpu else [],
        "products": {
            "device": "cpu", "side": 768, "threads": 8, "gflops": {"fp32": 100.0, "bf16": 200.0},
            "bf16_speedup": 2.0, "bf16_instructions": True,
        },
        "collectives": {
            "gloo": {"works": True, "why": None}, "nccl": {"works": gpu, "why": "no GPU"},
        },
        "deepspeed": {"version": "0.19.8", "accelerator": "cpu", "operations": {"fused": True}},
    }  # fmt: skip
    found = {name: {"facts": copy.deepcopy(one), "problem": None} for name, one in facts.items()}
    works = {"facts": None, "problem": None}
    return found | {"attention": {"math": works}, "triton": {"add_norm": works} if gpu else {}}


# Section, what is other in it, the finding, and a part of what to do.
CPU = [
    ("processor", {"core_share": 2.0}, "cpu_quota", "export OMP_NUM_THREADS=2"),
    ("processor", {"threads_set": "64"}, "threads_many", "export OMP_NUM_THREADS=8"),
    ("processor", {"threads_set": "1"}, "threads_one", "unset it"),
    ("processor", {"load": 30.0}, "busy", "end what else runs"),
    ("memory", {"available_gib": 1.0}, "memory_low", "end what takes the rest"),
    ("memory", {"limit_gib": 2.0}, "memory_limit", "--memory"),
    ("memory", {"swap_used_gib": 3.0}, "swapping", "end what takes the memory"),
    ("limits", {"shared_memory_gib": 0.06}, "shared_memory", "--shm-size 8g"),
    ("limits", {"shared_memory_gib": None}, "shared_memory", "data.workers to 0"),
    ("limits", {"open_files": 1024}, "open_files", "ulimit -n 65536"),
    ("limits", {"open_files": 256, "open_files_most": 1024}, "open_files", "root alone can raise"),
    ("limits", {"file_size_gib": 1.0}, "file_size", "ulimit -f unlimited"),
    ("disk", {"free_gb": 3.0}, "disk_full", "make room"),
    ("disk", {"write_mb_s": 10.0}, "disk_slow_write", "takes 360 s"),
    ("disk", {"read_mb_s": 10.0}, "disk_slow_read", "faster disk"),
    ("disk", {"locks": False}, "disk_locks", "give each its own"),
    ("disk", {"kind": "tmpfs"}, "disk_in_memory", "choose a disk"),
    ("required", {"x": {"asked": ">=2", "version": None}}, "package_missing", "pip install 'x>=2'"),
    (
        "required",
        {"x": {"asked": ">=2", "version": "1", "fits": False}},
        "package_version",
        "pip install 'x>=2'",
    ),
    ("optional", {"vocabulary": {"active": False}}, "vocabulary", "pip install --no-deps"),
    ("pillow", {"formats": {"WEBP": False}}, "decoder", "pip install --force-reinstall"),
    ("pillow", {"jpeg_512_a_second": 40}, "decoder_slow", "end what else runs"),
    ("torch", {"driver": "580"}, "gpu_unused", "launch/install.sh"),
    ("triton_version", {"fits": False}, "triton_version", "pip install 'triton==3.7'"),
    ("products", {"bf16_speedup": 0.25}, "bf16_slow", "take 4.0 times as long"),
    ("collectives", {"gloo": {"works": False, "why": "x"}}, "gloo", "install it anew"),
]
GPU = [
    ("torch", {"cuda": False}, "gpu_unused", "finds none: update the driver"),
    ("torch", {"cuda": False, "visible": ""}, "gpu_unused", "CUDA_VISIBLE_DEVICES, which is ''"),
    ("torch", {"architectures": ["sm_80"]}, "gpu_architecture", "install a build for it"),
    ("collectives", {"nccl": {"works": False, "why": "x"}}, "nccl", "NCCL_DEBUG=INFO"),
    ("optional", {"triton": {"active": False}}, "triton_missing", "pip install triton"),
    ("optional", {"C++ compiler": {"active": False}}, "compiler", "apt-get install g++"),
]
