"""The model of a command that goes through many pictures."""

from engine.bulk.config import BulkConfig
from engine.config import ModelSection
from engine.inference import LoadedBlip, load


def opened(config: BulkConfig) -> LoadedBlip:
    """Open the weights that the command names.

    Raises:
        ConfigError: nothing there, or weights that do not fit.
    """
    section = ModelSection(image_size=config.image_size, vocabulary=config.vocabulary)
    device, precision = config.device, config.precision
    return load(config.model, device=device, precision=precision, section=section, frozen=True)
