"""What no test may depend on: a network, a clock, and which tests its process ran before.

Triton reads its variable when it is imported, for the functions of its own library too.
"""

import os
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from engine import progress
from engine.data import pack, pack_pairs

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# What is compared in float32 is computed in it.
torch.backends.cudnn.allow_tf32 = False
# A name that is no file is looked for in the hub's cache, and nobody is asked.
os.environ["HF_HUB_OFFLINE"] = "1"
# An example takes as long as the machine lets it, and is the same everywhere.
settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Draws without a generator of their own are the same whichever worker makes them, and after
    whatever: that is a matter of time. Here those of fixtures."""
    _seed(1_000_003)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """And here those of tests, which are others."""
    _seed(1_000_033)


def _seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@pytest.fixture(autouse=True)
def no_lines_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work of ten seconds says how far it is; a slow machine needs that long for anything."""
    for module in (progress, pack, pack_pairs):
        monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", float("inf"))
