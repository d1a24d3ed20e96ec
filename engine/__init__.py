"""What makes the model run; `engine.load(path)` opens a checkpoint for use."""

from pathlib import Path
from typing import Any


def load(place: str | Path, **settings: Any) -> Any:
    """Open BLIP weights for captioning, matching and embedding; see `engine.inference.load`."""
    # Late: the package is imported by every entry point, most of which need no model.
    from engine.inference import load as load_weights

    return load_weights(place, **settings)


def find_pictures(folder: str | Path) -> list[Path]:
    """The pictures that a folder stands for, in order; see `engine.pictures.find_pictures`."""
    from engine.pictures import find_pictures as find

    return find(folder)
