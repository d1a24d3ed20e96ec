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


def refuse_few(names: Sequence[str], parts: Parts, *, built: bool = False) -> None:
    """Look at the pictures of a set before anything is made of them.

    Args:
        names: of tasks.
        parts: the pictures, named, for training and held out.
        built: the set is complete, and its settings stand.

    Raises:
        ConfigError: a task cannot be made of them; says so where more held-out ones are enough.
    """
    for name in names:
        look = TASKS[name][1]
        try:
            look(parts)
        except ConfigError as error:
            hint = _hint(look, parts, ", in another folder" if built else "")
            raise ConfigError(f"tasks {name}: {error}{hint}") from None


def _hint(look: Look, parts: Parts, where: str) -> str:
    """What helps where training pictures suffice and only held-out ones do not."""
    try:
        look({"train": parts["train"], "heldout": [*parts["heldout"], *parts["train"]]})
    except ConfigError:
        return ""
    return f"; raise --held_out{where}: {len(parts['heldout'])} pictures are too few"


def make_tasks(
    folder: Path,
    names: Sequence[str],
    seed: int,
    progress: Callable[[str], None],
    *,
    built: bool = False,
) -> int:
    """Derive tasks from the set in `folder`; one that is there is left as it is.

    Args:
        folder: of the set.
        names: of tasks.
        seed: of what is drawn.
        progress: takes a line for each.
        built: the set was complete before, and nobody has looked at its pictures.

    Returns:
        How many were made.

    Raises:
        ConfigError: pictures that a task cannot be made of.
    """
    parts = {part: str(folder / part) for part in ("train", "heldout")}
    wanted = [name for name in names if not (folder / "tasks" / name).exists()]
    if wanted and built:
        refuse_few(wanted, read_parts(**parts), built=True)
    for name in wanted:
        target, make = folder / "tasks" / name, TASKS[name][0]
        try:
            with aside(target) as building:
                counts = make(building, **parts, seed=seed)
        except ConfigError as error:
            raise ConfigError(f"tasks {name}: {error}") from None
        progress(f"{target}: {counts['train']} for training, {counts['heldout']} held out")
    return len(wanted)
