"""Small real data of downstream tasks, derived from a pair set's pictures and their names."""

from collections.abc import Callable, Sequence
from pathlib import Path

from engine.collect.clips import make_clips
from engine.collect.dialogues import make_dialogues
from engine.collect.questions import make_questions
from engine.collect.statements import make_statements
from engine.collect.world import aside
from engine.config import ConfigError

TASKS: dict[str, Callable[..., dict[str, int]]] = {
    "nlvr": make_statements,
    "visdial": make_dialogues,
    "vqa": make_questions,
    "video": make_clips,
}


def refuse_unknown(names: Sequence[str]) -> None:
    """Check the names of tasks.

    Raises:
        ConfigError: one that is none.
    """
    for name in names:
        if name not in TASKS:
            raise ConfigError(f"tasks: {name!r} is not known: choose {' or '.join(TASKS)}")


def make_tasks(
    folder: Path, names: Sequence[str], seed: int, progress: Callable[[str], None]
) -> int:
    """Derive tasks from the set in `folder`; one that is there is left as it is.

    Returns:
        How many were made.

    Raises:
        ConfigError: pictures that a task cannot be made of.
    """
    made = 0
    for name in names:
        target = folder / "tasks" / name
        if target.exists():
            continue
        with aside(target) as building:
            counts = TASKS[name](
                building, train=str(folder / "train"), heldout=str(folder / "heldout"), seed=seed
            )
        progress(f"{target}: {counts['train']} for training, {counts['heldout']} held out")
        made += 1
    return made
