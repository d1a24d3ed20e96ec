"""A picture file with a name, and how it becomes a square PNG. Files are data and run nothing.

An SVG may declare entities that grow without end, and name files of the machine to be drawn in:
such a one is refused, as is one that is too large.
"""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from engine.data.images import BadSample, decode_image

MAX_BYTES, MAX_PIXELS = 2_000_000, 25_000_000
DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Drawing:
    """One picture of a set: its stable code, its name and its file."""

    code: str
    name: str
    path: Path


def read_svg(path: Path) -> tuple[str, ElementTree.Element]:
    """Text and tree of an SVG.

    Raises:
        BadSample: too_large, entities, undecodable, or foreign_files.
    """
    if path.stat().st_size > MAX_BYTES:
        raise BadSample("too_large")
    text = path.read_bytes().decode("utf-8-sig", "replace")
    # Looked for in what is parsed: the text, whatever encoding the file says that it has.
    if "<!ENTITY" in text:
        raise BadSample("entities")
    try:
        tree = ElementTree.fromstring(DECLARATION.sub("", text))
    except ElementTree.ParseError:
        raise BadSample("undecodable") from None
    for element in tree.iter():
        for key, value in element.attrib.items():
            inside = value.strip().startswith(("#", "data:"))
            if key.endswith("href") and _is(element, "image") and not inside:
                raise BadSample("foreign_files")
    return text, tree


def draw(path: Path, size: int) -> bytes:
    """A picture file as PNG, `size` pixels square, whole and in the middle of a white ground.

    Args:
        path: an SVG, or what `decode_image` reads.
        size: of a side, in pixels.

    Raises:
        BadSample: a file that is no picture, or one that is refused.
    """
    if path.suffix != ".svg":
        return _on_white(decode_image(path.read_bytes(), MAX_PIXELS), size)
    import resvg_py

    text, _ = read_svg(path)
    # Without a resolution a drawing in millimetres has no size.
    settings = {"width": size, "height": size, "background": "#ffffff", "dpi": 96.0}
    try:
        content = resvg_py.svg_to_bytes(svg_string=text, skip_system_fonts=True, **settings)
    except ValueError:
        raise BadSample("undecodable") from None
    with Image.open(io.BytesIO(content)) as image:
        return content if image.size == (size, size) else _on_white(image.convert("RGB"), size)


def _is(element: ElementTree.Element, name: str) -> bool:
    return isinstance(element.tag, str) and element.tag.rpartition("}")[2] == name


def _on_white(image: Image.Image, size: int) -> bytes:
    scale = size / max(image.size)
    fitted = image.resize(tuple(max(1, round(side * scale)) for side in image.size))
    square = Image.new("RGB", (size, size), WHITE)
    square.paste(fitted, ((size - fitted.width) // 2, (size - fitted.height) // 2))
    out = io.BytesIO()
    square.save(out, "PNG")
    return out.getvalue()
