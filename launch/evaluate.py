"""Evaluate a model on held-out pairs: `python launch/evaluate.py --task retrieval ...`.

`deepspeed launch/evaluate.py ...` shares the work out among GPUs, with the same figures.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.config import ConfigError, RunConfig
from launch.cli import parse, run_main
from launch.finetune import TASKS as TUNED

EXAMPLES = """
  python launch/evaluate.py --task retrieval --config runs/mine/config.yaml \\
    --model.checkpoint runs/mine --output_dir runs/mine/evaluation/retrieval
  python launch/evaluate.py --task classification --model.checkpoint model_base.pth \\
    --data.eval folder_of_class_folders --output_dir runs/classes
  python launch/evaluate.py --task caption --model.checkpoint model_base.pth \\
    --data.eval annotations.json --data.image_root images --output_dir runs/captions
  python launch/evaluate.py --task vqa --config launch/recipes/finetune_vqa.yaml \\
    --model.checkpoint model_vqa.pth --data.eval vqa_test.json --data.image_root VQA \\
    --evaluate.answer_list answer_list.json --output_dir runs/vqa_test
  python launch/evaluate.py --config launch/recipes/evaluate_video_retrieval_msrvtt.yaml \\
    --model.checkpoint model_base_retrieval_coco.pth --data.eval msrvtt_test.jsonl \\
    --data.image_root videos --output_dir runs/video_retrieval
"""
TASKS = (*TUNED, "classification")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(RunConfig):
    """An evaluation.

    Args:
        task: retrieval, caption, classification, nlvr (sentences about two pictures), visdial
            (dialogues), vqa (questions), video_retrieval, or video_qa.
    """

    task: str = "retrieval"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task not in TASKS:
            raise ConfigError(f"task {self.task!r} is not known: choose {' or '.join(TASKS)}")


def main() -> None:
    """Evaluate and write results.json."""
    config = parse(
        EvaluateConfig, description="Evaluate on held-out pairs (data.eval).", examples=EXAMPLES
    )
    from engine import runtime

    here = runtime.start(config.device)
    from engine.evaluation.run import evaluate

    try:
        evaluate(config, config.task, here.patient())
    finally:
        runtime.stop()


if __name__ == "__main__":
    run_main(main)
