"""Turn weights from one format into another: `python launch/convert.py --from original ...`."""

import sys
from pathlib import Path
from typing import Any, Literal

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.config import ConfigError
from launch.cli import open_parser, read, run_main

EXAMPLES = """
  python launch/convert.py --from original --input model_base.pth --to ours --output model_base
  python launch/convert.py --from ours --input runs/mine --to hf --output mine_hf
  python launch/convert.py --from hf --input mine_hf --to original --output mine.pth
"""
FORMATS = Literal["original", "ours", "hf"]
REQUIRED = ("from", "input", "to", "output")


def flags() -> dict[str, Any]:
    """Read the command line.

    Raises:
        ConfigError: unknown or missing flags.
    """
    parser = open_parser(
        "Convert BLIP weights: the original's .pth, our checkpoints, Hugging Face folders.",
        EXAMPLES,
    )
    parser.add_argument("--from", type=FORMATS | None, help="format of the input")
    parser.add_argument("--input", type=str | None, help="file, folder or run to read")
    parser.add_argument("--to", type=FORMATS | None, help="format of the output")
    parser.add_argument("--output", type=str | None, help="what to write; must not exist yet")
    parser.add_argument("--image_size", type=int | None, help="resize position embeddings")
    parser.add_argument("--vision_heads", type=int | None, help="where the width is unusual")
    parser.add_argument("--text_heads", type=int | None, help="where the width is unusual")
    parser.add_argument("--vocabulary", type=str | None, help="vocab.txt, for the hf tokenizer")
    given = read(parser)
    missing = [f"--{name}" for name in REQUIRED if given[name] is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} missing; --help shows examples")
    return given


def main() -> None:
    """Convert and say what went where."""
    given = flags()
    # Imported late: help and bad flags need no torch.
    from engine.convert import convert

    for line in convert(
        given["input"],
        given["output"],
        origin=given["from"],
        target=given["to"],
        image_size=given["image_size"],
        vocabulary=given["vocabulary"],
        known={name: given[name] for name in ("vision_heads", "text_heads")},
    ):
        print(line, flush=True)


if __name__ == "__main__":
    run_main(main)
