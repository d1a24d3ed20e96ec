"""A confusion matrix as a small PNG: rows are true classes, columns what was said."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SHOWN, CELL, LABEL, FONT = 40, 28, 190, 13
INK, LINE = "#202428", "#c8ccd0"
# Shares 0 and 1.
PALE, STRONG = (255, 255, 255), (47, 111, 178)


def draw_confusion(classes: list[str], confusion: list[list[int]], path: Path) -> None:
    """Shares of each row; of more than 40 classes the first 40, and a line that says so.

    Args:
        classes: K names.
        confusion: [K][K] counts.
        path: of the PNG.
    """
    shown = min(len(classes), SHOWN)
    side = LABEL + CELL * shown
    image = Image.new("RGB", (side + 12, side + 40), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT)
    said = "row: true class, column: answer, share of the row in %"
    if len(classes) > SHOWN:
        said += f"; the first {SHOWN} of {len(classes)} classes"
    draw.text((8, side + 20), said, INK, font, anchor="lm")
    for row in range(shown):
        draw.text((LABEL - 6, LABEL + CELL * (row + 0.5)), _cut(classes[row]), INK, font, "rm")
        total = max(sum(confusion[row]), 1)
        for column in range(shown):
            share = confusion[row][column] / total
            x, y = LABEL + CELL * column, LABEL + CELL * row
            draw.rectangle((x, y, x + CELL, y + CELL), _colour(share), LINE)
            if share >= 0.005:
                ink = "white" if share > 0.5 else INK
                middle = (x + CELL / 2, y + CELL / 2)
                draw.text(middle, f"{100 * share:.0f}", ink, ImageFont.load_default(11), "mm")
    image.paste(_columns(classes[:shown], font), (LABEL, 0))
    image.save(path, "PNG", optimize=True)


def _columns(classes: list[str], font: ImageFont.FreeTypeFont) -> Image.Image:
    """Names from the bottom up."""
    lying = Image.new("RGB", (LABEL, CELL * len(classes)), "white")
    draw = ImageDraw.Draw(lying)
    for number, name in enumerate(classes):
        draw.text((6, CELL * (number + 0.5)), _cut(name), INK, font, "lm")
    return lying.transpose(Image.Transpose.ROTATE_90)


def _cut(name: str) -> str:
    """What fits beside the matrix."""
    return name if len(name) <= 24 else f"{name[:23]}…"


def _colour(share: float) -> tuple[int, int, int]:
    low, high = PALE, STRONG
    return tuple(round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
