"""Does the denoising loop work, and when: `python launch/ablate.py --config RECIPE`."""

import shlex
import sys
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.ablation.config import AblationConfig
from engine.training.signals import STOPPED, StopRequest
from launch.cli import parse, run_main

EXAMPLES = """
  python launch/collect.py --output_dir runs/data/openmoji
  python launch/ablate.py --config launch/recipes/ablation.yaml
  python launch/ablate.py --config launch/recipes/ablation.yaml --output_dir runs/core \\
    --arms '["none","both"]' --seeds '[0,1,2,3,4]' --noise 0.3 --pretrain.train.max_steps 100
"""


def main() -> int:
    """All cells and the results; 0 when done, 75 when a signal stopped it with everything saved."""
    stop = StopRequest()
    config = parse(
        AblationConfig,
        description="Pretrain on noisy pairs, cleaned in several ways, and compare. "
        "Any number of launches may share one output_dir: each works on a seed of its own.",
        examples=EXAMPLES,
    )
    # Imported late: help and configuration errors need no torch, and DeepSpeed looks at the
    # device that the runtime has chosen.
    from engine import runtime

    here = runtime.start(config.device, stop)
    from engine.ablation.experiment import Experiment
    from engine.stages import Stages, Stopped

    try:
        Experiment(config, Stages(here, stop), shlex.join(["python", *sys.argv])).run()
    except Stopped:
        return STOPPED
    finally:
        runtime.stop()
    return 0


if __name__ == "__main__":
    run_main(main)
