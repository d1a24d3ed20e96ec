"""Small real things for tests: a network of a few thousand weights and batches for it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from blip_model import BlipConfig
from blip_model.config import preset
from engine import checkpoint


def tiny_config(**changes: Any) -> BlipConfig:
    """The `tiny` preset without dropout."""
    return replace(preset("tiny", dropout=0.0), **changes)


def tiny_inputs(
    count: int, tokens: int = 7, seed: int = 0, config: BlipConfig | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures, ids and mask of `count` random pairs; captions of several lengths, padded."""
    config = config or tiny_config()
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, 3, config.image_size, config.image_size, generator=generator)
    ids = torch.randint(200, config.vocab_size - 2, (count, tokens), generator=generator)
    lengths = torch.randint(3, tokens + 1, (count,), generator=generator)
    lengths[0] = tokens
    mask = (torch.arange(tokens) < lengths[:, None]).long()
    ids[:, 0] = 101
    ids[torch.arange(count), lengths - 1] = config.sep_token_id
    return image, ids * mask, mask


def write_model(path: Path, model: torch.nn.Module) -> Path:
    """The folder of a network's weights, as a run leaves them."""
    network = {"network": vars(model.config)}
    return checkpoint.write_as(path, 0, {"model": model.state_dict()}, network)


@torch.no_grad()
def spread(model: torch.nn.Module) -> None:
    """Twice the weights of a fresh network, whose outputs for any input are nearly the same."""
    for name, parameter in model.named_parameters():
        if name == "temp":
            continue
        if parameter.ndim > 1:
            parameter.mul_(2.0)
        else:
            parameter.add_(0.05)
