"""Small real sets of pairs: drawn pictures with captions that name what is on them."""

import io
import json
import struct
import zlib
from pathlib import Path

from PIL import Image, ImageDraw

from engine.data.shard_writer import ShardWriter

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "purple", "orange")
SHAPES = ("square", "circle", "bar", "cross")


def picture(number: int, size: int = 40, form: str = "PNG") -> bytes:
    """A coloured shape on grey, encoded."""
    colour, shape = COLOURS[number % 8], SHAPES[number // 8 % 4]
    image = Image.new("RGB", (size, size), (128, 128, 128))
    draw, low, high = ImageDraw.Draw(image), size // 4, 3 * size // 4
    if shape == "square":
        draw.rectangle((low, low, high, high), colour)
    elif shape == "circle":
        draw.ellipse((low, low, high, high), colour)
    elif shape == "bar":
        draw.rectangle((0, low, size, high), colour)
    else:
        draw.line((0, 0, size, size), colour, 5)
        draw.line((0, size, size, 0), colour, 5)
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def caption(number: int) -> str:
    """What `picture(number)` shows."""
    return f"a {COLOURS[number % 8]} {SHAPES[number // 8 % 4]} number {number}"


def write_shards(folder: Path, count: int, per_shard: int = 20) -> Path:
    """`count` pairs in indexed shards under `folder`."""
    with ShardWriter(folder, "pairs", per_shard) as writer:
        for number in range(count):
            facts = {"uid": f"uid-{number}", "url": f"http://example.org/{number}"}
            writer.add(f"{number:05d}", picture(number), "png", caption(number), facts)
    return folder


def write_statements(folder: Path, count: int) -> Path:
    """`count` statements about two of 16 drawn pictures, every other one true, as NLVR2's JSON."""
    rows = []
    for number in range(16):
        (folder / f"{number}.png").write_bytes(picture(number))
    for number in range(count):
        left, right = number % 16, (5 * number + 3) % 16
        shown = left if number % 2 else (left + 1) % 8
        row = {"images": [f"{left}.png", f"{right}.png"], "identifier": f"test-{number}"}
        row["sentence"] = f"The left picture shows something {COLOURS[shown % 8]}."
        rows.append(row | {"label": str(bool(number % 2))})
    (folder / "statements.json").write_text(json.dumps(rows))
    return folder / "statements.json"


def write_questions(folder: Path, count: int) -> Path:
    """`count` questions about 16 drawn pictures, every fourth Visual Genome's, in BLIP's JSON."""
    rows = []
    for number in range(16):
        (folder / f"{number}.png").write_bytes(picture(number))
    for number in range(count):
        colour = COLOURS[number % 8]
        row = {"image": f"{number % 16}.png", "question": "What colour is it, really?"}
        if number % 4 == 3:
            row |= {"dataset": "vg", "answer": colour}
        else:
            row |= {"dataset": "vqa", "answer": [colour] * 7 + [f"light {colour}"] * 2 + ["none"]}
        rows.append(row | {"question_id": number})
    (folder / "questions.json").write_text(json.dumps(rows))
    return folder / "questions.json"


def write_dialogues(folder: Path, count: int) -> Path:
    """`count` dialogues of two rounds about 16 drawn pictures, with the 12 answers that there are
    as candidates, in VisDial's JSON."""
    answers, dialogs = [*COLOURS, *SHAPES], []
    for number in range(16):
        (folder / f"{number}.png").write_bytes(picture(number))
    for number in range(count):
        shown, options = number % 16, [(5 * number + place) % 12 for place in range(12)]
        rounds = []
        for question, answer in enumerate((shown % 8, 8 + shown // 8)):
            row = {"question": question, "answer": answer, "answer_options": options}
            rounds.append(row | {"gt_index": options.index(answer)})
        row = {"image_id": number, "image": f"{shown}.png", "caption": "A drawing."}
        dialogs.append(row | {"dialog": rounds})
    data = {"questions": ["what colour is it", "and which shape?"], "answers": answers}
    content = {"version": "1.0", "split": "val2018", "data": {**data, "dialogs": dialogs}}
    (folder / "dialogues.json").write_text(json.dumps(content))
    return folder / "dialogues.json"


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header promises a huge picture."""
    facts = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    packed = zlib.compress(bytes(10_000_000))
    for name, body in ((b"IHDR", facts), (b"IDAT", packed), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(name + body))
        content += struct.pack(">I", len(body)) + name + body + check
    return content
