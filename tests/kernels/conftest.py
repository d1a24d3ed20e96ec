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
            if tensor.is_floating_point():
                return tensor.fill_(float("nan"))
            is_bool = tensor.dtype == torch.bool
            return tensor.fill_(is_bool or torch.iinfo(tensor.dtype).max)

        monkeypatch.setattr(torch, name, poisoned)
    yield
