"""A tiny network that nobody trained, as `engine.load` gives one."""

import torch

from blip_model import Blip
from engine.data.tokenizer import open_tokenizer
from engine.inference import LoadedBlip
from tests.tiny import spread, tiny_config


def loaded_blip() -> LoadedBlip:
    """The same one at every call."""
    torch.manual_seed(0)
    model = Blip(tiny_config())
    spread(model)
    return LoadedBlip(model, open_tokenizer(None))
