"""Rounds of BLIP's loop: `deepspeed launch/bootstrap.py --config RECIPE`, or `python` for one."""

import sys
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.bootstrap.config import BootstrapConfig
from engine.training.signals import StopRequest
from launch.cli import parse, run_main

EXAMPLES = """
  python launch/bootstrap.py --config launch/recipes/quickstart_bootstrap.yaml --rounds 2 \\
    --data.web runs/web --data.clean runs/quickstart/data/train \\
    --data.eval runs/quickstart/data/heldout --output_dir runs/loop
  deepspeed launch/bootstrap.py --config launch/recipes/bootstrap_14m.yaml --rounds 1 \\
    --data.web 'shards/{00000..01399}.tar' --data.clean coco_karpathy_train.json \\
    --data.eval coco_karpathy_val.json --data.image_root coco --output_dir runs/bootstrap
  python launch/bootstrap.py --config runs/loop/config.yaml --rounds 3 \\
    --guard.on_reject continue
"""


def main() -> int:
    """Run the rounds; 0 when they have their verdicts, 75 when a signal stopped them, all saved."""
    stop = StopRequest()
    config = parse(
        BootstrapConfig,
        description="Pretrain, tune a captioner and a filter on clean pairs, clean the web pairs "
        "with them, pretrain anew; N rounds, each judged. Start again to continue; "
        "OUTPUT_DIR/bootstrap.json says how far it is.",
        examples=EXAMPLES,
    )
    # Imported late: help and configuration errors need no torch, and DeepSpeed looks at the
    # device that the runtime has chosen.
    from engine import runtime

    here = runtime.start(config.device, stop)
    from engine.bootstrap.rounds import Bootstrap

    try:
        return Bootstrap(config, here, stop).run()
    finally:
        runtime.stop()


if __name__ == "__main__":
    run_main(main)
