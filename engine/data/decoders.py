"""Which decoder training pictures go through: one setting, one choice, announced once."""

import importlib.util
import logging
from dataclasses import dataclass, replace
from functools import cache

import torch

from engine.config import ConfigError, RunConfig
from engine.data import dali
from engine.data.jpeg import Decoder, by_pillow, by_simplejpeg

log = logging.getLogger(__name__)
SETTING = "data.jpeg_decoder"


@dataclass(frozen=True)
class Decoders:
    """What decodes JPEG.

    Attributes:
        host: in loader processes; all of them, or those that the device does not take.
        planned: whether DALI makes the views of whole colour JPEGs on the device.
    """

    host: Decoder
    planned: bool


def in_effect(config: RunConfig, device: str, *, single: bool) -> RunConfig:
    """The settings with `dali` for `auto` where that is what it comes to: DALI's views are nearly
    those of the host, and a run that goes on elsewhere must not change them unsaid.

    Arguments as those of `choose_decoders`; nothing is announced or refused.
    """
    data = config.data
    wanted = _wanted(data.jpeg_decoder, device, data.fast_views)
    if not wanted or _fault(device, single):
        return config
    return replace(config, data=replace(data, jpeg_decoder="dali"))


def _wanted(choice: str, device: str, fast_views: bool) -> bool:
    """Whether DALI makes the views if it can."""
    return choice == "dali" or (choice == "auto" and device == "cuda" and fast_views)


def choose_decoders(
    choice: str, device: str, *, single: bool = True, fast_views: bool = True
) -> Decoders:
    """The decoders of a run.

    `auto` takes DALI where views can be made on a GPU and what it makes of a picture there agrees
    with the definition; for the rest simplejpeg, and Pillow where that is not installed.

    Args:
        choice: `auto`, `dali`, `simplejpeg` or `pillow`. A forced `dali` runs on a CPU as well,
            by its own operators for one.
        device: `cuda` or `cpu`, of the run.
        single: whether a view is of one picture; DALI makes no others.
        fast_views: whether views may differ from the definition; else `auto` takes no DALI.

    Raises:
        ConfigError: what is forced cannot run.
    """
    fast = importlib.util.find_spec("simplejpeg") is not None
    if choice == "simplejpeg" and not fast:
        raise ConfigError(
            f"{SETTING}: simplejpeg is not installed (pip install simplejpeg); or set auto"
        )
    wanted = _wanted(choice, device, fast_views)
    fault = _fault(device, single) if wanted else None
    if choice == "dali" and fault:
        raise ConfigError(f"{SETTING}: {fault}; or set auto")
    planned = wanted and not fault
    name = "simplejpeg" if fast and choice != "pillow" else "pillow"
    if planned:
        _announce(f"DALI on {device}; {name} for what it does not take")
    elif fault:
        _announce(f"{name} ({fault})")
    else:
        _announce(name)
    return Decoders(by_simplejpeg if name == "simplejpeg" else by_pillow, planned)


def _fault(device: str, single: bool) -> str | None:
    """Why DALI cannot make the views, or None."""
    if not single:
        return "DALI makes views of single pictures, not of two or of videos"
    if not dali.is_installed():
        return "DALI is not installed (pip install '.[gpu-decoding]')"
    return _tried(device)


@cache
def _tried(device: str) -> str | None:
    try:
        dali.DaliViews(torch.device(device), 1, 64, 1)
    except Exception as error:  # noqa: BLE001 - drivers and libraries of any age fail in any way
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        return f"DALI cannot run here on {device} ({lines[-1].strip()})"
    return None


@cache
def _announce(words: str) -> None:
    log.info("JPEG decoder: %s", words)
