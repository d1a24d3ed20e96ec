"""Caption and filter web pairs: `deepspeed launch/capfilt.py`, or `python` for one process."""

import sys
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.capfilt.config import CapFiltConfig
from engine.training.signals import StopRequest
from launch.cli import parse, run_main

EXAMPLES = """
  python launch/capfilt.py --data.train runs/quickstart/data/train --output_dir runs/clean \\
    --captioner runs/quickstart/pretrain --filter runs/quickstart/pretrain
  deepspeed launch/capfilt.py --config launch/recipes/capfilt.yaml --output_dir runs/clean \\
    --data.train 'shards/{00000..01399}.tar' --captioner runs/captioner --filter runs/filter
  deepspeed launch/capfilt.py --config launch/recipes/capfilt.yaml --output_dir shared/run \\
    --data.train 's3://pairs/{00000..01399}.tar' --publish_to s3://pairs-clean \\
    --captioner runs/captioner --filter runs/filter
  python launch/capfilt.py --from_table runs/clean --data.train 'shards/{00000..01399}.tar' \\
    --output_dir runs/stricter --rule.itm_threshold 0.7
"""


def main() -> int:
    """Clean shards; 0 when all are done, 75 when a signal stopped it with everything saved."""
    stop = StopRequest()
    config = parse(
        CapFiltConfig,
        description="Caption pictures, filter web and synthetic texts, write cleaned shards. "
        "Any number of launches, on any machines, may share one output_dir.",
        examples=EXAMPLES,
    )
    # Imported late: help and configuration errors need no torch.
    from engine import runtime

    here = runtime.start_apart(config.device, config.threads)
    from engine.capfilt.run import CapFilt

    return CapFilt(config, here, stop).run()


if __name__ == "__main__":
    run_main(main)
