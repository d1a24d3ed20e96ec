"""The traces of the original code: tensors, metadata and the network they describe."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from blip_model import BlipConfig

FOLDER = Path(os.environ.get("BLIP_GOLDEN", Path(__file__).parent / "golden"))


@dataclass(frozen=True)
class Trace:
    """One file: `tensors` by name, `meta` and the sizes as a `config`."""

    tensors: dict[str, torch.Tensor]
    meta: dict
    config: BlipConfig

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        """Tensors below a prefix, by the rest of their name."""
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}


def read(name: str) -> Trace:
    """Read one trace; every size comes from its metadata."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        meta = json.loads(file.metadata()["meta"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    fields = set(BlipConfig.__dataclass_fields__) & set(meta)
    return Trace(tensors, meta, BlipConfig(**{field: meta[field] for field in fields}))


def assert_equal_to(ours: torch.Tensor, golden: torch.Tensor, name: str, relative: float) -> None:
    """The largest difference is within `relative` of the golden tensor's largest entry."""
    assert ours.shape == golden.shape, name
    if not golden.is_floating_point():
        assert torch.equal(ours, golden), name
        return
    difference = (ours.double() - golden.double()).abs().max().item() if golden.numel() else 0.0
    largest = golden.abs().max().item() if golden.numel() else 0.0
    assert difference <= relative * max(largest, 1e-6), f"{name}: {difference:.3g} of {largest:.3g}"
