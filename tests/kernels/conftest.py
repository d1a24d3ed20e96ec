"""Memory that a kernel leaves unwritten is poison."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`torch.empty` gives NaN (or a huge number), so that a cell left unwritten shows."""
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)

        def poisoned(*args: object, _original: object = original, **kwargs: object) -> object:
            tensor = _original(*args, **kwargs)
            worst = float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max
            return tensor.fill_(worst)

        monkeypatch.setattr(torch, name, poisoned)
    yield
