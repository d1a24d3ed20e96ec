"""What no test may depend on: a network, a clock, and which tests its process ran before.

Triton reads its variable when it is imported, for the functions of its own library too.
"""

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from engine import progress
from engine.data import pack, pack_pairs

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# A name that is no file is looked for in the hub's cache, and nobody is asked.
os.environ["HF_HUB_OFFLINE"] = "1"
# An example takes as long as the machine lets it, and is the same everywhere.
settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Draws without a generator of their own are the same wherever a test runs, and its fixtures'
    too: which worker runs it, and after what, is a matter of time."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_lines_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work of ten seconds says how far it is; a slow machine needs that long for anything."""
    for module in (progress, pack, pack_pairs):
        monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", float("inf"))
    yield
