"""Caption pictures: `python launch/caption.py --model runs/mine picture.png folder/`."""

import sys
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.bulk.config import PICTURES, CaptionConfig
from launch.cli import parse, run_main

EXAMPLES = """
  python launch/caption.py --model runs/quickstart/captioner picture.png folder/
  python launch/caption.py --model model_base_caption.pth folder/ --output captions.jsonl
  python launch/caption.py --model runs/captioner 'shards/{00000..00009}.tar' \\
    --output captions.parquet --caption.method nucleus --caption.samples 3
"""


def main() -> None:
    """Caption, and sum up on stderr."""
    config = parse(
        CaptionConfig,
        description="Caption pictures: a line `path<TAB>caption` each, or a file. What cannot be "
        "used is named and skipped; exit code 2 where nothing could be.",
        examples=EXAMPLES,
        words=("pictures", PICTURES),
    )
    # Imported late: help and configuration errors need no torch.
    from engine.bulk.caption import caption_pictures

    print(caption_pictures(config, print), file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
