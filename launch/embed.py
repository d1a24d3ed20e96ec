"""Features and matching scores: `python launch/embed.py --model runs/mine folder/ --output F`."""

import sys
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.bulk.config import PICTURES, EmbedConfig
from launch.cli import parse, run_main

EXAMPLES = """
  python launch/embed.py --model runs/quickstart/pretrain folder/ --output features.npy
  python launch/embed.py --model runs/quickstart/pretrain --what pairs \\
    runs/quickstart/data/heldout --output scores.parquet
  python launch/embed.py --model model_base.pth --what pairs folder/ \\
    --texts '["a red apple", "two dogs"]' --output scores.csv
  python launch/embed.py --model model_base.pth --what texts --texts lines.txt --output texts.npy
"""


def main() -> None:
    """Embed or score, and sum up on stderr."""
    config = parse(
        EmbedConfig,
        description="Write features of pictures or texts, or scores of pairs: matching "
        "probability (itm_score) and cosine (itc_score). What cannot be used is named and "
        "skipped; exit code 2 where nothing could be.",
        examples=EXAMPLES,
        words=("pictures", PICTURES),
    )
    # Imported late: help and configuration errors need no torch.
    from engine.bulk.embed import embed

    print(embed(config), file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
