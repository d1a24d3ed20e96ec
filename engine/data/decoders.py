"""Which decoder training pictures go through: one setting, one choice, announced once."""

import logging
from dataclasses import dataclass, replace
from functools import cache

import torch

from engine.config import ConfigError, RunConfig
from engine.data.dali import DaliViews
from engine.data.jpeg import Decoder, by_pillow, fastest
from engine.data.torchvision_views import TorchvisionViews
from engine.data.view_maker import ViewMaker

log = logging.getLogger(__name__)
SETTING = "data.jpeg_decoder"
# What makes the views of whole colour JPEGs on a device, in the order that `auto` tries them.
ON_DEVICE: dict[str, type[ViewMaker]] = {"dali": DaliViews, "torchvision": TorchvisionViews}


@dataclass(frozen=True)
class Decoders:
    """What decodes JPEG.

    Attributes:
        host: in loader processes; all of them, or those that the device does not take.
        on_device: which of `ON_DEVICE` makes the views of whole colour JPEGs; None: the host.
    """

    host: Decoder
    on_device: str | None


def in_effect(config: RunConfig, device: str, *, single: bool) -> RunConfig:
    """The settings with what `auto` comes to where that makes views on the device: they are nearly
    those of the host, and a run that goes on elsewhere must not change them unsaid.

    Arguments as those of `choose_decoders`; nothing is announced or refused.
    """
    data = config.data
    decoder, _ = _on_device(data.jpeg_decoder, device, single, data.fast_views)
    return config if decoder is None else replace(config, data=replace(data, jpeg_decoder=decoder))


def choose_decoders(
    choice: str, device: str, *, single: bool = True, fast_views: bool = True
) -> Decoders:
    """The decoders of a run.

    `auto` takes DALI where views can be made on a GPU and what it makes of a picture there agrees
    with the definition; for the rest simplejpeg, and Pillow where that is not installed. It leaves
    torchvision out, whose kernels wait for those of a training beside them (LOG.md).

    Args:
        choice: `auto`, `dali`, `torchvision`, `simplejpeg` or `pillow`. The first two run on a CPU
            as well where they are forced, by their own means for one.
        device: `cuda` or `cpu`, of the run.
        single: whether a view is of one picture; a device makes no others.
        fast_views: whether views may differ from the definition; else `auto` takes no device's.

    Raises:
        ConfigError: what is forced cannot run.
    """
    host = by_pillow if choice == "pillow" else fastest()
    if choice == "simplejpeg" and host is by_pillow:
        raise ConfigError(
            f"{SETTING}: simplejpeg is not installed (pip install simplejpeg); or set auto"
        )
    decoder, faults = _on_device(choice, device, single, fast_views)
    if choice in ON_DEVICE and faults:
        raise ConfigError(f"{SETTING}: {faults[0]}; or set auto")
    name = "pillow" if host is by_pillow else "simplejpeg"
    why = f" ({'; '.join(dict.fromkeys(faults))})" if faults else ""
    if decoder:
        there = ON_DEVICE[decoder].name
        _announce(f"{there} on {device}{why}; {name} for what it does not take")
    else:
        _announce(f"{name}{why}")
    return Decoders(host, decoder)


def maker_of(decoder: str, device: torch.device, most: int, threads: int, size: int) -> ViewMaker:
    """What makes views of a size on a device.

    Args:
        decoder: one of `ON_DEVICE`.
        device: that they are made on.
        most: views of a batch.
        threads: of the host.
        size: of the views' sides.

    Raises:
        Exception: it cannot run there.
    """
    if decoder == "dali":
        return DaliViews(device, most, size, threads)
    return TorchvisionViews(device, size)


def _on_device(
    choice: str, device: str, single: bool, fast_views: bool
) -> tuple[str | None, list[str]]:
    """The first one wanted that can make views on the device, and why those before it cannot."""
    wanted = [choice] if choice in ON_DEVICE else []
    if choice == "auto" and device == "cuda" and fast_views:
        wanted = ["dali"]
    faults: list[str] = []
    for decoder in wanted:
        if (fault := _fault(decoder, device, single)) is None:
            return decoder, faults
        faults.append(fault)
    return None, faults


def _fault(decoder: str, device: str, single: bool) -> str | None:
    """Why a decoder cannot make views on a device, or None."""
    if not single:
        return "a device makes views of single pictures, not of two or of videos"
    kind = ON_DEVICE[decoder]
    if not kind.is_installed():
        return f"{kind.name} is not installed ({kind.install})"
    return _tried(decoder, device)


@cache
def _tried(decoder: str, device: str) -> str | None:
    try:
        maker_of(decoder, torch.device(device), 1, 1, 64)
    except Exception as error:  # noqa: BLE001 - drivers and libraries of any age fail in any way
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        return f"{ON_DEVICE[decoder].name} cannot run here on {device} ({lines[-1].strip()})"
    return None


@cache
def _announce(words: str) -> None:
    log.info("JPEG decoder: %s", words)
