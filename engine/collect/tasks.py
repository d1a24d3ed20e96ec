"""Small real data of downstream tasks, derived from a pair set's pictures and their names."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engine.collect import clips, dialogues, questions, statements
from engine.collect.task_pictures import read_parts
from engine.collect.world import aside
from engine.config import ConfigError
from engine.data.source import RawSample

Parts = Mapping[str, Sequence[RawSample]]
Look = Callable[[Parts], None]
# What makes a task, and what looks at the pictures before.
TASKS: dict[str, tuple[Callable[..., dict[str, int]], Look]] = {
    "nlvr": (statements.make_statements, statements.refuse_few),
    "visdial": (dialogues.make_dialogues, dialogues.refuse_few),
    "vqa": (questions.make_questions, questions.refuse_few),
    "video": (clips.make_clips, clips.refuse_few),
}


def refuse_unknown(names: Sequence[str]) -> None:
    """Check the names of tasks.

    Raises:
        ConfigError: one that is none.
    """
    for name in names:
        if name not in TASKS:
            raise ConfigError(f"tasks: {name!r} is not known: choose {' or '.join(TASKS)}")


def refuse_few(names: Sequence[str], parts: Parts) -> None:
    """Look at the pictures of a set before it is written.

    Args:
        names: of tasks.
        parts: the pictures, named, for training and held out.

    Raises:
        ConfigError: a task cannot be made of them; says so where more held-out ones are enough.
    """
    for name in names:
        look = TASKS[name][1]
        try:
            look(parts)
        except ConfigError as error:
            raise ConfigError(f"tasks {name}: {error}{_hint(look, parts)}") from None


def _hint(look: Look, parts: Parts) -> str:
    """What helps where training pictures suffice and only held-out ones do not."""
    try:
        look({"train": parts["train"], "heldout": [*parts["heldout"], *parts["train"]]})
    except ConfigError:
        return ""
    return f"; raise --held_out: {len(parts['heldout'])} pictures are too few"


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
        parts = {part: str(folder / part) for part in ("train", "heldout")}
        make, look = TASKS[name]
        try:
            with aside(target) as building:
                counts = make(building, **parts, seed=seed)
        except ConfigError as error:
            hint = _hint(look, read_parts(**parts))
            raise ConfigError(f"tasks {name}: {error}{hint}") from None
        progress(f"{target}: {counts['train']} for training, {counts['heldout']} held out")
        made += 1
    return made
