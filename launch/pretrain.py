"""Pretrain BLIP: `deepspeed launch/pretrain.py --config RECIPE`, or `python` for one process."""

import sys
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.config import RunConfig
from engine.training.signals import StopRequest
from launch.cli import parse, run_main

EXAMPLES = """
  python launch/pretrain.py --config launch/recipes/quickstart.yaml \\
    --data.train runs/quickstart/data/train --output_dir runs/mine
  deepspeed launch/pretrain.py --config launch/recipes/pretrain_base_14m.yaml \\
    --data.train 'shards/{00000..01399}.tar' --output_dir runs/base_14m
  deepspeed launch/pretrain.py --config launch/recipes/pretrain_clip_style.yaml \\
    --data.train 'shards/{00000..01399}.tar' --output_dir runs/align_style
  python launch/pretrain.py --config runs/mine/config.yaml --output_dir runs/again
"""


def main() -> int:
    """Train; 0 when done, 75 when a signal stopped it with everything saved."""
    stop = StopRequest()
    config = parse(
        RunConfig,
        description="Pretrain BLIP: contrast, matching and captioning on picture-caption pairs.",
        examples=EXAMPLES,
    )
    # Imported late: help and configuration errors need no torch, and DeepSpeed looks at the
    # device that the runtime has chosen.
    from engine import runtime

    here = runtime.start(config.device, stop)
    from engine.training.objectives import pretraining
    from engine.training.trainer import train

    try:
        return train(config, pretraining, here, stop)
    finally:
        runtime.stop()


if __name__ == "__main__":
    run_main(main)
