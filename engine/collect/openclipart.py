"""Open Clip Art as Debian installs it: drawings with the titles, descriptions and keywords that
their uploaders gave them. Many say little or nothing of the picture: a truly noisy web.
"""

import hashlib
from pathlib import Path
from xml.etree import ElementTree

from engine.collect.drawing import Drawing, read_svg
from engine.config import ConfigError
from engine.data.images import BadSample

FOLDER = Path("/usr/share/openclipart/svg")
ATTRIBUTION = (
    "Drawings of the Open Clip Art Library (openclipart.org), public domain. Drawn as PNG on "
    "white; captions are the title, description and keywords of each file.\n"
)
LICENSE = "public domain"
COMPOSED = False
WORK, TITLE, ABOUT, KEYWORDS = "Work", "title", "description", "subject"
# Put there by the archive's software.
NO_KEYWORDS = {"", "hash", "unsorted"}


def drawings() -> list[Drawing]:
    """Every drawing that says anything of itself, in order of paths; of equal files the first.

    Raises:
        ConfigError: the package is not installed.
    """
    paths = sorted(FOLDER.rglob("*.svg"))
    if not paths:
        raise ConfigError(
            f"source openclipart: no drawing in {FOLDER}: apt-get install openclipart-svg"
        )
    found, seen = [], set()
    for path in paths:
        digest = hashlib.sha256(path.read_bytes()).digest()
        try:
            name = caption_of(read_svg(path)[1])
        except BadSample:
            continue
        if name and digest not in seen:
            seen.add(digest)
            found.append(Drawing(path.relative_to(FOLDER).as_posix(), name, path))
    return found


def caption_of(tree: ElementTree.Element) -> str:
    """What the metadata of a drawing say: title, description, keywords; "" where nothing."""
    work = next((one for one in tree.iter() if _kind(one) == WORK), None)
    said: dict[str, list[str]] = {TITLE: [], ABOUT: [], KEYWORDS: []}
    # Of the work itself: its agents have titles, too.
    for element in work if work is not None else ():
        if _kind(element) in said:
            words = (" ".join(text.replace("_", " ").split()) for text in element.itertext())
            said[_kind(element)] += [text for text in words if text]
    title, about = (" ".join(said[kind]) for kind in (TITLE, ABOUT))
    known = f"{title} {about}".lower()
    keywords = [word for word in said[KEYWORDS] if word.lower() not in NO_KEYWORDS]
    keywords = [word for word in dict.fromkeys(keywords) if word.lower() not in known]
    if about.lower().rstrip(".") in title.lower():
        about = ""
    return ", ".join(part for part in (title, about, " ".join(keywords)) if part)


def _kind(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
