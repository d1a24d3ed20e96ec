"""What makes the model run; `engine.load(path)` opens a checkpoint for use."""

from pathlib import Path
from typing import Any


def load(place: str | Path, **settings: Any) -> Any:
    """Open BLIP weights for captioning, matching and embedding; see `engine.inference.load`."""
    # Late: the package is imported by every entry point, most of which need no model.
    from engine.inference import load as load_weights

    return load_weights(place, **settings)
