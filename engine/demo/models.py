"""The models behind the page: each thing is done by the first that can."""

from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from engine.config import ConfigError, EvaluateSection, ModelSection
from engine.demo.config import DemoConfig
from engine.encoding import ANSWERS
from engine.inference import LoadedBlip, load


@dataclass(frozen=True)
class DemoModels:
    """Who does what; None where nobody can.

    Attributes:
        captions: has a decoder.
        matches: has a text encoder with its heads.
        answers: has an answering decoder.
        style: prompt and lengths of captions.
    """

    captions: LoadedBlip | None
    matches: LoadedBlip | None
    answers: LoadedBlip | None
    style: EvaluateSection


def open_models(config: DemoConfig) -> DemoModels:
    """Open the weights that the command names.

    fp32, as attention maps need gradients and a picture at a time is little work.

    Raises:
        ConfigError: nothing there, weights that do not fit, or weights that can do nothing here.
    """
    section = ModelSection(image_size=config.image_size, vocabulary=config.vocabulary)
    opened = [
        (place, load(place, device=config.device, section=section)) for place in config.models
    ]
    parts = ("text_decoder", "text_encoder", ANSWERS)
    for place, blip in opened:
        if not any(_has(blip, part) for part in parts):
            raise ConfigError(f"{place}: these weights neither caption nor match nor answer")
    found = [next((blip for _, blip in opened if _has(blip, part)), None) for part in parts]
    captioning = [place for place, blip in opened if blip is found[0]]
    style = _style(captioning[0]) if captioning else EvaluateSection()
    if config.prompt is not None:
        style = replace(style, prompt=config.prompt)
    return DemoModels(*found, style)


def _style(place: str) -> EvaluateSection:
    """How a run's captions were evaluated: one that was trained without a prompt captions badly
    with one. What is no run has BLIP's own settings."""
    try:
        told = yaml.safe_load((Path(place) / "config.yaml").read_text(encoding="utf-8"))["evaluate"]
        kinds = {"prompt": str, "max_length": int, "min_length": int}
        found = {name: told[name] for name, kind in kinds.items() if isinstance(told[name], kind)}
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError):
        return EvaluateSection()
    return EvaluateSection(**found)


def _has(blip: LoadedBlip, part: str) -> bool:
    try:
        blip.require(part)
    except ConfigError:
        return False
    return True
