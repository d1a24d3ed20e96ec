"""Stamps of Tux Paint as Debian installs them: photos and drawings with a human sentence each."""

from pathlib import Path

from engine.collect.drawing import Drawing
from engine.config import ConfigError

FOLDER = Path("/usr/share/tuxpaint/stamps")
ATTRIBUTION = (
    "Stamps of Tux Paint (tuxpaint.org), copyright Bill Kendrick and contributors, GPL-2. "
    "Drawn as PNG on white; captions are their English descriptions.\n"
)
LICENSE = "GPL-2"
COMPOSED = False
# Of a stamp that has both, the one that is drawn at any size.
PICTURES = (".svg", ".png")


def drawings() -> list[Drawing]:
    """Every stamp with a sentence, in order of paths.

    Raises:
        ConfigError: the package is not installed.
    """
    texts = sorted(FOLDER.rglob("*.txt"))
    if not texts:
        raise ConfigError(
            f"source tuxpaint: no stamp in {FOLDER}: apt-get install tuxpaint-stamps-default"
        )
    found = []
    for text in texts:
        path = next((p for end in PICTURES if (p := text.with_suffix(end)).is_file()), None)
        # The first line is English, the others are translations.
        lines = text.read_bytes()[:4096].decode("utf-8", "replace").splitlines()
        name = lines[0].strip() if lines else ""
        if path is not None and name:
            found.append(Drawing(text.relative_to(FOLDER).with_suffix("").as_posix(), name, path))
    return found
