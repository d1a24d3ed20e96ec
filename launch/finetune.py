"""Fine-tune BLIP: `deepspeed launch/finetune.py --config RECIPE`, or `python` for one process."""

import sys
from dataclasses import dataclass
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.config import ConfigError, RunConfig
from engine.training.signals import StopRequest
from launch.cli import parse, run_main

EXAMPLES = """
  deepspeed launch/finetune.py --config launch/recipes/finetune_captioner.yaml \\
    --model.checkpoint runs/base_14m --data.train coco_karpathy_train.json \\
    --data.image_root coco --output_dir runs/captioner
  python launch/finetune.py --config launch/recipes/quickstart_filter.yaml \\
    --model.checkpoint runs/quickstart/pretrain --data.train runs/quickstart/data/train \\
    --output_dir runs/quickstart/filter
"""
TASKS = (
    "caption",
    "retrieval",
    "nlvr",
    "visdial",
    "vqa",
    "video_retrieval",
    "video_qa",
)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """A fine-tuning.

    Args:
        task: `caption` makes a captioner, `retrieval` (contrast and matching) a filter, `nlvr`
            judges sentences about two pictures, `visdial` ranks answers in dialogues, `vqa` answers
            questions; `video_retrieval` and `video_qa` do what `retrieval` and `vqa` do with frames
            of videos.
    """

    task: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task not in TASKS:
            raise ConfigError(f"task {self.task!r} is not known: choose {' or '.join(TASKS)}")
        if self.train.contrast_only:
            raise ConfigError("train.contrast_only is of pretraining: take it out")


def main() -> int:
    """Train; 0 when done, 75 when a signal stopped it with everything saved."""
    stop = StopRequest()
    config = parse(
        FinetuneConfig,
        description="Fine-tune BLIP weights (model.checkpoint) to a downstream task.",
        examples=EXAMPLES,
    )
    # Imported late: help and configuration errors need no torch, and DeepSpeed looks at the
    # device that the runtime has chosen.
    from engine import runtime

    here = runtime.start(config.device, stop)
    from engine.training.trainer import train
    from engine.training.tuning import OBJECTIVES

    try:
        return train(config, OBJECTIVES[config.task], here, stop)
    finally:
        runtime.stop()


if __name__ == "__main__":
    run_main(main)
