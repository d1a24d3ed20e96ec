"""The network, its objectives and generation."""

from typing import TYPE_CHECKING, Any

from blip_model.config import BlipConfig

if TYPE_CHECKING:
    from blip_model.blip import Blip

__all__ = ["Blip", "BlipConfig"]


def __getattr__(name: str) -> Any:
    # Late: whoever reads settings imports this package, and most of them need no torch.
    if name == "Blip":
        from blip_model.blip import Blip

        return Blip
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
