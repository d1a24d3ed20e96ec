"""What PyTorch makes of the machine: GPUs, matrix products, processes, DeepSpeed.

Everything here runs in a child that has imported PyTorch; a GPU is first touched in its children.
"""

import os
import subprocess
import time
from typing import Any

from engine.machine import PROC, multiplies_bf16, read, version

# Sides of measured products, and seconds for each of both precisions.
SIDE_CPU, SIDE_GPU, MEASURED = 768, 4096, 0.5


def torch_facts() -> dict[str, Any]:
    """PyTorch's build, and the driver beside it."""
    import torch

    return {
        "version": torch.__version__,
        "cuda_build": torch.version.cuda,
        "cuda": torch.cuda.is_available(),
        "cudnn": torch.backends.cudnn.version(),
        "architectures": torch.cuda.get_arch_list() if torch.version.cuda else [],
        "driver": _driver(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "driver_loaded": (PROC / "driver" / "nvidia" / "version").is_file(),
        "threads": torch.get_num_threads(),
        "numpy": version("numpy"),
    }


def gpus() -> list[dict[str, Any]]:
    """Each GPU that PyTorch can use."""
    import torch

    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        found.append(
            {
                "name": facts.name,
                "capability": f"{facts.major}.{facts.minor}",
                "memory_gib": round(total / 2**30, 1),
                "free_gib": round(free / 2**30, 1),
                "processors": facts.multi_processor_count,
            }
        )
    return found


def products() -> dict[str, Any]:
    """GFLOP/s of square matrix products in fp32 and bf16, in turns, each by its fastest repeat."""
    import torch

    on_gpu = torch.cuda.is_available()
    device, side = ("cuda", SIDE_GPU) if on_gpu else ("cpu", SIDE_CPU)
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    given = {name: torch.randn(side, side, device=device).to(kind) for name, kind in kinds.items()}
    fastest = dict.fromkeys(kinds, float("inf"))
    for name in kinds:
        given[name] @ given[name]
    until = time.perf_counter() + 2 * MEASURED
    # Once at least, on a machine that sleeps just now too.
    while fastest["bf16"] == float("inf") or time.perf_counter() < until:
        for name, matrix in given.items():
            if on_gpu:
                torch.cuda.synchronize()
            began = time.perf_counter()
            matrix @ matrix
            if on_gpu:
                torch.cuda.synchronize()
            fastest[name] = min(fastest[name], time.perf_counter() - began)
    rates = {name: round(2 * side**3 / took / 1e9, 1) for name, took in fastest.items()}
    has = torch.cuda.get_device_capability() >= (8, 0) if on_gpu else multiplies_bf16()
    return {
        "device": device,
        "side": side,
        "threads": torch.get_num_threads(),
        "gflops": rates,
        "bf16_speedup": round(fastest["fp32"] / fastest["bf16"], 2),
        "bf16_instructions": has,
    }


def collectives() -> dict[str, Any]:
    """A reduction of one process over gloo, and over NCCL where there is a GPU."""
    import torch
    import torch.distributed as dist

    on_gpu = torch.cuda.is_available()
    found: dict[str, Any] = {}
    for name in ("gloo", "nccl"):
        there = dist.is_nccl_available() if name == "nccl" else dist.is_gloo_available()
        if name == "nccl" and not on_gpu:
            found[name] = {"works": False, "why": "it needs an NVIDIA GPU", "built_in": there}
            continue
        try:
            dist.init_process_group(name, store=dist.HashStore(), rank=0, world_size=1)
            tensor = torch.ones(3, device="cuda" if name == "nccl" else "cpu")
            dist.all_reduce(tensor)
            found[name] = {"works": bool(tensor.sum().item() == 3), "why": None, "built_in": there}
        except (RuntimeError, ValueError) as error:
            line = str(error).splitlines()[0]
            found[name] = {"works": False, "why": line, "built_in": there}
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
    if on_gpu:
        found["nccl"]["version"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found


def deepspeed_facts() -> dict[str, Any]:
    """Whether DeepSpeed is imported, and which of its own operations could be compiled here."""
    import torch

    if not torch.cuda.is_available():
        # As a run sets it before it imports DeepSpeed.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    return {
        "version": deepspeed.__version__,
        "accelerator": get_accelerator().device_name(),
        "operations": {name: bool(can) for name, can in deepspeed.ops.__compatible_ops__.items()},
    }


def _driver() -> str | None:
    """Version of NVIDIA's driver; None where its program is not there or fails."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        return done.stdout.strip().splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return read(PROC / "driver" / "nvidia" / "version").strip().split("\n")[0] or None
