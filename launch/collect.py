"""Make a pair set as indexed shards: `python launch/collect.py --output_dir FOLDER`."""

import sys
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.collect.pair_set import CollectConfig, collect
from launch.cli import parse, run_main

EXAMPLES = """
  python launch/collect.py --output_dir runs/data/openmoji
  python launch/collect.py --output_dir runs/data/openmoji224 --size 224 --held_out 400
  python launch/collect.py --output_dir runs/data/noisy --noise 0.3 --clean_fraction 0.1
  python launch/collect.py --output_dir runs/data/openmoji --tasks vqa
  python launch/collect.py --source openclipart --held_out 100
  python launch/collect.py --source tuxpaint --held_out 200
"""


def main() -> None:
    """Read the flags and build the set."""
    config = parse(
        CollectConfig,
        description="Make a set of picture-caption pairs from pictures that an installed package "
        "holds: OpenMoji drawings and their names, Open Clip Art, or stamps of Tux Paint.",
        examples=EXAMPLES,
    )
    collect(config, lambda line: print(line, flush=True))


if __name__ == "__main__":
    run_main(main)
