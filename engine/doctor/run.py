"""All probes of a machine, each where it can do no harm."""

import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from engine.doctor import compute, libraries, system
from engine.doctor.isolated import Outcome, each_isolated, isolated

# Seconds. A cold disk takes long to import PyTorch from; DeepSpeed more.
SHORT, LONG, IMPORTS, TORCH = 30.0, 60.0, 180.0, 600.0


def examine(output_dir: str) -> dict[str, Any]:
    """Facts by probe: `facts`, `problem` and `seconds` of each.

    Args:
        output_dir: where runs would be written.
    """
    probes: dict[str, tuple[Callable[[], Any], float]] = {
        "processor": (system.processor_facts, SHORT),
        "memory": (system.memory_facts, SHORT),
        "limits": (system.limit_facts, SHORT),
        "disk": (partial(system.disk_facts, output_dir), LONG),
        "required": (libraries.required, SHORT),
        "optional": (libraries.optional, SHORT),
        "pillow": (libraries.pillow, SHORT),
    }
    found = {name: asdict(isolated(probe, seconds)) for name, (probe, seconds) in probes.items()}
    heavy = isolated(with_torch, TORCH)
    names = ("torch", "triton_version", "gpus", "products", "collectives", "deepspeed")
    if heavy.problem is not None:
        lost = asdict(Outcome(problem=heavy.problem, seconds=heavy.seconds))
        return found | dict.fromkeys(names, lost) | {"attention": {}, "triton": {}}
    return found | heavy.facts


def with_torch() -> dict[str, Any]:
    """What needs PyTorch, in a child that imports it once for all of these probes."""
    import torch

    # Imported here, so that the children find it done.
    from engine.doctor import operations

    # In a child: the question alone starts the driver, which a process forked after it cannot use.
    if not isolated(torch.cuda.is_available, LONG).facts:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    probes: dict[str, tuple[Callable[[], Any], float]] = {
        "torch": (compute.torch_facts, LONG),
        "triton_version": (libraries.fitting_triton, SHORT),
        "gpus": (compute.gpus, LONG),
        "products": (compute.products, LONG),
        "collectives": (compute.collectives, LONG),
        "deepspeed": (compute.deepspeed_facts, IMPORTS),
    }
    found = {name: asdict(isolated(probe, seconds)) for name, (probe, seconds) in probes.items()}
    found["attention"] = each_isolated(operations.attention_probes(), LONG)
    found["triton"] = each_isolated(operations.triton_probes(), LONG)
    return found
