"""All downstream tasks on small real data: tuned and untuned.

    bash bench/run.sh tasks
    bash bench/run.sh tasks --tasks vqa nlvr --seeds 0 1 2 --output_dir runs/tasks
    bash bench/run.sh tasks --data runs/quickstart/data --start runs/quickstart/pretrain

What is complete in the folder is not made again: stopped anywhere, the same command goes on. Flags
that are not its own go to every training and evaluation, as those of the quickstart do.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import ROOT
from engine.training.signals import STOPPED, StopRequest
from launch.cli import run_main


@dataclass(frozen=True)
class Task:
    """A downstream task: what is tuned, from what, and the figure that it is judged by.

    Attributes:
        metric: of its `results.json`; more is better.
        recipe: of its tuning, or of its evaluation where nothing is tuned for it.
        lists: of data that `engine.collect.tasks` derives: the files below `tasks/`, with `train`
            and `heldout` in place of the braces; None takes the set's pairs.
        start: task whose tuned weights its tuning starts from; None takes the pretraining's.
        tuned: of a task that nothing is tuned for: the task whose tuned weights it judges.
        untuned: settings of the evaluation that weights need which have seen no tuning.
    """

    metric: str
    recipe: str
    lists: str | None = None
    start: str | None = None
    tuned: str | None = None
    untuned: dict[str, Any] = field(default_factory=dict)


TASKS = {
    "retrieval": Task("text_to_image_r1", "quickstart_retrieval"),
    # Pretraining shows captions without the captioner's prompt.
    "caption": Task("cider", "quickstart_captioner", untuned={"prompt": "", "min_length": 2}),
    "vqa": Task("accuracy", "quickstart_vqa", "vqa/{}.json"),
    # Pretraining has only begun to match; tuning to retrieval has learnt to.
    "nlvr": Task("accuracy", "quickstart_nlvr", "nlvr/{}.json", start="retrieval"),
    "classification": Task("accuracy_top1", "evaluate_openmoji_tones", tuned="retrieval"),
    # The paper's first figure for dialogues; candidates are ranked by matching.
    "visdial": Task("mrr", "quickstart_visdial", "visdial/{}.json", start="retrieval"),
    # The paper takes what has learnt from pictures to videos. Of 300 clips many are much alike.
    "video_retrieval": Task(
        "text_to_video_r5",
        "quickstart_video_retrieval",
        "video/retrieval_{}.jsonl",
        start="retrieval",
    ),
    "video_qa": Task("accuracy", "quickstart_video_qa", "video/qa_{}.json", start="vqa"),
}


def arguments(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What the command line asks for, and the flags of every training and evaluation."""
    parser = argparse.ArgumentParser(
        prog="bash bench/run.sh tasks",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output_dir", type=Path, default=Path("runs/tasks"), help="%(default)s")
    parser.add_argument("--results", type=Path, default=ROOT / "bench/results", help="of the JSON")
    parser.add_argument("--data", type=Path, help="pair set of launch/collect.py; makes one if not")
    parser.add_argument("--start", help="pretrained run or weights; pretrains if not given")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the tunings")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="default: bf16 where it is")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    found, flags = parser.parse_known_args(words)
    for what in ("tasks", "seeds"):
        setattr(found, what, list(dict.fromkeys(getattr(found, what))))
    return found, flags


def main() -> int:
    """Make everything and write the figures; 75 when a signal stopped it with all saved."""
    stop, (words, flags) = StopRequest(), arguments(sys.argv[1:])
    # Imported late: DeepSpeed looks at the device that the runtime has chosen.
    from engine import runtime

    here = runtime.start(words.device)
    from bench.task_runs import TaskRuns
    from engine.stages import Stages, Stopped

    command = shlex.join(["bash", "bench/run.sh", "tasks", *sys.argv[1:]])
    try:
        TaskRuns(TASKS, words, flags, Stages(here, stop)).run(command)
    except Stopped:
        return STOPPED
    finally:
        runtime.stop()
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    run_main(main)
