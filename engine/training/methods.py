"""The two passes of a step as the run wants them: under autocast, and as compiled programs."""

import functools

import torch
from torch import nn

from engine.config import RunConfig

# Shapes that a run may meet; each is a program of its own, and none is made twice.
PROGRAMS = 256
BACKEND = "inductor"


def as_configured(
    config: RunConfig, device: torch.device, *methods: tuple[nn.Module | None, str]
) -> None:
    """Put the run's way of running them in the place of modules' methods.

    Args:
        config: of the run.
        device: that it runs on.
        methods: modules, or None where there is none, with the name of a method each.
    """
    for module, name in methods:
        if module is None:
            continue
        if config.train.compile:
            torch._dynamo.config.recompile_limit = PROGRAMS
            settings = {"backend": BACKEND, "fullgraph": True, "dynamic": False}
            setattr(module, name, torch.compile(getattr(module, name), **settings))
        if config.precision == "bf16":
            # Inside the call that DeepSpeed makes: it switches an outer autocast off.
            cast = torch.autocast(device.type, torch.bfloat16)
            setattr(module, name, cast(functools.partial(getattr(module, name))))
