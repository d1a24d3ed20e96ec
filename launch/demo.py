"""Try a model on pictures in a browser: `python launch/demo.py --model runs/mine`."""

import sys
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.demo.config import DemoConfig
from launch.cli import parse, run_main

EXAMPLES = """
  python launch/demo.py --model runs/quickstart/pretrain --folder pictures/
  python launch/demo.py --model '[runs/quickstart/pretrain, runs/vqa]' --port 0
  python launch/demo.py --model model_base_retrieval_coco.pth --image_size 384
  python launch/demo.py --model runs/mine --host 0.0.0.0 --open_to_network true
"""


def main() -> None:
    """Serve the page until Ctrl-C."""
    config = parse(
        DemoConfig,
        description="A page on this machine to try a model on pictures: captions, matching with "
        "your own text and where it looks for each word, answers, search of a folder by text.",
        examples=EXAMPLES,
    )
    # Imported late: help and configuration errors need no torch.
    from engine.demo.run import run_demo

    run_demo(config, lambda line: print(line, flush=True))


if __name__ == "__main__":
    run_main(main)
