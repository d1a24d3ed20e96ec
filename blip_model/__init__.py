"""The network, its objectives and generation."""

from blip_model.blip import Blip
from blip_model.config import BlipConfig

__all__ = ["Blip", "BlipConfig"]
