"""The models behind the page: each thing is done by the first that can."""

from dataclasses import dataclass

from engine.config import ConfigError, ModelSection
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
    """

    captions: LoadedBlip | None
    matches: LoadedBlip | None
    answers: LoadedBlip | None


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
    return DemoModels(*found)


def _has(blip: LoadedBlip, part: str) -> bool:
    try:
        blip.require(part)
    except ConfigError:
        return False
    return True
