"""The best and the worst cases of evaluations, from their `cases.json`."""

from typing import Any

from engine.report.examples import metrics_of
from engine.report.run_folder import RunFolder, as_list, clip, count_of
from engine.report.thumbnails import is_picture

MOST_TASKS, MOST_CASES, MOST_PICTURES, MOST_TRUTHS, MOST_ROUNDS = 8, 8, 2, 5, 10
# Characters of pictures in all; what has no room is named.
ROOM = 1_500_000
TITLES = {
    "retrieval": ("Pictures that texts find", "Texts whose picture comes first or far behind"),
    "caption": ("Captions", "Captions most and least like those that people wrote"),
    "vqa": ("Answers to questions", "Answers that most and that no people gave"),
    "nlvr": ("Statements about two pictures", "Statements judged with most and least right"),
    "visdial": ("Dialogues", "Dialogues whose right answers stand highest and lowest"),
    "video_retrieval": (
        "Videos that texts find",
        "Texts whose video comes first or far behind",
    ),
    "video_qa": ("Answers to questions about videos", "Answers that are the right one, and others"),
    "classification": ("Classes", "Pictures whose class is furthest ahead and behind"),
}


def cases(run: RunFolder) -> list[dict[str, Any]]:
    """A part a task: its figures, and cards of the best and the worst cases."""
    room, parts = [ROOM], []
    for found, results in run.cases[:MOST_TASKS]:
        task = clip(found.get("task"), 40)
        title, lead = TITLES.get(task, (task or "evaluation", ""))
        sides = []
        for name, key in (("Most right", "best"), ("Most wrong", "worst")):
            given = as_list(found.get(key))[:MOST_CASES]
            sides.append((name, [_card(case, room) for case in given if isinstance(case, dict)]))
        if any(cards for _, cards in sides):
            part = {"title": title, "lead": lead, "sides": sides, "count": count_of(results)}
            # Not again what stands further up on the page.
            shown = results in (run.retrieval, run.caption)
            parts.append(part | {"metrics": [] if shown else metrics_of(results)})
    return parts


def _card(case: dict[str, Any], room: list[int]) -> dict[str, Any]:
    pictures = []
    for given in as_list(case.get("pictures"))[:MOST_PICTURES]:
        if not isinstance(given, dict):
            continue
        image = given.get("image")
        fits = is_picture(image) and len(image) <= room[0]
        room[0] -= len(image) if fits else 0
        picture = {"label": clip(given.get("label"), 20), "key": clip(given.get("key"))}
        pictures.append(picture | {"image": image if fits else None})
    card = {name: clip(case.get(name)) for name in ("score", "asked", "output")}
    truths = [clip(text) for text in as_list(case.get("truth"))[:MOST_TRUTHS]]
    rounds = [
        {name: clip(one.get(name)) for name in ("score", "asked", "output", "truth")}
        for one in as_list(case.get("rounds"))[:MOST_ROUNDS]
        if isinstance(one, dict)
    ]
    return card | {"truth": truths, "rounds": rounds, "pictures": pictures}
