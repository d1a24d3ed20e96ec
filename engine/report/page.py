"""One HTML file about a run: it loads nothing, runs its own script only and trusts no caption."""

import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.config import ConfigError
from engine.report.capfilt_folder import is_capfilt, read_capfilt
from engine.report.capfilt_part import CapFiltPart
from engine.report.cases import cases
from engine.report.curves import curves
from engine.report.embedding import TEMPLATES, own_text, policy
from engine.report.examples import captions, picture_keys, queries
from engine.report.machine import machine
from engine.report.rounds import Round, read_rounds, rounds_view
from engine.report.run_folder import (
    RETRIEVAL,
    RunFolder,
    clip,
    clip_config,
    read_object,
    read_run,
    read_text,
)
from engine.report.scores import before_and_after, directions, percent, steps_of, summary
from engine.report.sections import data_facts, headline
from engine.report.thumbnails import held_out_thumbnails, is_picture

# Bytes of a page, at most; pictures are made to fit.
LARGEST_PAGE = 5_000_000
MOST_NOTES, ROOM_FOR_NOTES = 12, 8000
STYLES, SCRIPTS = ("style.css", "capfilt.css"), ("threshold.js", "samples.js")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """A report to make.

    Args:
        run: folder of the run: one that holds `pretrain/`, a pretraining folder itself, the output
            of captioning and filtering, or the rounds of a bootstrap.
        output: HTML file to write; null takes report.html in the run's folder.
    """

    run: str = "runs/quickstart"
    output: str | None = None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a folder holds that a page can show; at least one of them is there.

    Args:
        root: the folder.
        run: a pretraining run with its evaluations; of a bootstrap that of its best round.
        capfilt: what captioning and filtering left.
        capfilt_round: of a bootstrap, the round that this is of.
        rounds: of a bootstrap.
        notes: lines about parts that could not be read.
    """

    root: Path
    run: RunFolder | None = None
    capfilt: CapFiltPart | None = None
    capfilt_round: int | None = None
    rounds: list[Round]
    notes: list[str]


def write_report(config: ReportConfig, progress: Callable[[str], None] = print) -> Path:
    """Make the report of a run and return its path. An older report is replaced at once.

    Args:
        config: what to read and where to write.
        progress: takes the retrieval figures beside chance and the path, a line each.

    Raises:
        ConfigError: nothing to report, or the file cannot be written.
    """
    root = Path(config.run)
    parts = read_parts(root)
    run = parts.run
    pictures = held_out_thumbnails(run, picture_keys(run)) if run else {}
    output = Path(config.output) if config.output else root / "report.html"
    if output.is_dir():
        raise ConfigError(f"--output {output}: is a folder; name an .html file")
    if output.exists() and not _is_report(output):
        raise ConfigError(f"--output {output}: exists and is no report; nothing is written over")
    try:
        write_page(build_page(parts, pictures), output)
    except OSError as error:
        raise ConfigError(f"--output {output}: cannot be written: {error.strerror}") from None
    for line in summary(directions(run.retrieval)) if run else ():
        progress(line)
    progress(f"report: {output}")
    return output


def write_page(page: str, output: Path) -> None:
    """Put a page in its place; whoever looks there sees the old one or the new one, whole.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    building = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        building.write_text(page, encoding="utf-8", errors="replace")
        os.replace(building, output)
    except BaseException:
        building.unlink(missing_ok=True)
        raise


def read_parts(root: Path) -> Parts:
    """Find out what a folder is and read what it holds.

    Raises:
        ConfigError: the folder does not exist, or holds nothing to report.
    """
    notes: list[str] = []
    if is_capfilt(root):
        return Parts(root=root, capfilt=CapFiltPart(read_capfilt(root)), rounds=[], notes=notes)
    rounds = read_rounds(root, notes)
    capfilt, number = _capfilt_of(root, rounds, notes)
    looped = rounds and not (root / "pretrain").is_dir()
    run = _best_run(rounds, notes) if looped else read_run(root)
    cleaned = {"capfilt": capfilt, "capfilt_round": number}
    return Parts(root=root, run=run, **cleaned, rounds=rounds, notes=notes)


def _best_run(rounds: list[Round], notes: list[str]) -> RunFolder | None:
    """The pretraining of a loop's best round, beside that before all cleaning."""
    folders = {one.number: one.folders["pretrain"] for one in rounds if "pretrain" in one.folders}
    best = next((one.number for one in rounds if one.best), None)
    if best not in folders or not folders[best].is_dir():
        return None
    try:
        run = read_run(folders[best])
    except ConfigError as error:
        notes.append(str(error))
        return None
    if best and 0 in folders:
        return replace(run, earlier_retrieval=read_object(folders[0] / RETRIEVAL, notes))
    return run


def _capfilt_of(
    root: Path, rounds: list[Round], notes: list[str]
) -> tuple[CapFiltPart | None, int | None]:
    """The captioning and filtering of a quickstart; or that of the best round, whose model is
    shown, else of the newest that has one, and the round's number."""
    best_first = sorted(rounds, key=lambda one: (one.best, one.number), reverse=True)
    named = [(one.folders["capfilt"], one.number) for one in best_first if "capfilt" in one.folders]
    for folder, number in ((root / "capfilt", None), *named):
        if not is_capfilt(folder):
            continue
        try:
            return CapFiltPart(read_capfilt(folder)), number
        except ConfigError as error:
            notes.append(str(error))
    return None, None


def reports_above(folder: Path) -> list[Path]:
    """Reports of what a cleaned set is a part of: of a loop or a run, which show its pictures."""
    above = (parent / "report.html" for parent in folder.absolute().parents[:2])
    return [path for path in above if path.is_file() and _is_report(path)]


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(1 << 10)
    return start.startswith(b"<!doctype html>") and b"Content-Security-Policy" in start


def build_page(parts: Parts, thumbnails: Mapping[str, str]) -> str:
    """The page as text.

    Args:
        parts: what there is to show.
        thumbnails: of held-out samples: key to data URI (WebP, JPEG or PNG); anything else is not
            shown.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    name = clip(parts.root.resolve().name, 80)
    style = own_text(*STYLES)
    script = own_text(*SCRIPTS) if parts.capfilt else ""
    sections, values = _sections(parts, thumbnails)
    values |= {
        "name": name,
        "title": f"{name}: {values['headline']['sentence']}",
        "made": datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        "sections": sections,
        "style": style,
        "script": script,
        "policy": policy(style, [script] if script else []),
        "machine": machine(),
    }
    template = environment.get_template("page.html")
    notes = _notes(parts)
    if parts.capfilt is None:
        return template.render(values, notes=notes, blob="")
    # What the rest of the page leaves is room for the sampled pictures.
    taken = len(template.render(values, notes=notes, blob="").encode("utf-8", "replace"))
    blob = parts.capfilt.data(LARGEST_PAGE - taken - ROOM_FOR_NOTES)
    return template.render(values, notes=_notes(parts), blob=blob)


def _notes(parts: Parts) -> list[str]:
    notes = [*parts.notes, *(parts.run.notes if parts.run else [])]
    notes += parts.capfilt.folder.notes if parts.capfilt else []
    return [clip(note) for note in notes][:MOST_NOTES]


def _sections(parts: Parts, thumbnails: Mapping[str, str]) -> tuple[list[str], dict[str, Any]]:
    """Templates in the order of the page, and their values."""
    sections: list[str] = []
    values: dict[str, Any] = {"configuration": "", "capfilt": None}
    run, capfilt = parts.run, parts.capfilt
    sources = [source for source in (run, capfilt and capfilt.folder) if source]
    values["attribution"] = list(dict.fromkeys(t for one in sources for t in one.attribution))
    looped = values["looped"] = run is not None and run.root != parts.root
    if capfilt:
        values["capfilt"] = capfilt.view()
        values["configuration"] = capfilt.folder.config_text
    if parts.rounds:
        values["rounds"] = rounds_view(parts.rounds)
        # The loop's own settings hold those of all its stages.
        settings = read_text(parts.root / "config.yaml", parts.notes)
        values["configuration"] = clip_config(settings or values["configuration"])
    if run:
        pictures = {key: uri for key, uri in thumbnails.items() if is_picture(uri)}
        sections = ["headline.html", "captions.html", "queries.html"]
        values |= {
            "headline": headline(run),
            "captions": captions(run, pictures),
            "evaluation": run.evaluation,
            "queries": queries(run, pictures),
            "curves": curves(run),
            "data": data_facts(run),
            "configuration": values["configuration"] if looped else run.config_text,
            "cleaned": before_and_after(run.earlier_retrieval, run.retrieval),
            "cleaned_steps": [steps_of(run.earlier_retrieval), steps_of(run.retrieval)],
        }
        if values["cleaned"]:
            sections.insert(1, "cleaned.html")
        values["cases"] = cases(run)
        if values["cases"]:
            sections.append("cases.html")
        if looped:
            values["headline"] |= {"sentence": values["rounds"]["sentence"], "comparison": ""}
            absent = {"headline.html"} if run.caption else {"headline.html", "captions.html"}
            sections = [name for name in sections if name not in absent]
            sections = ["plain_headline.html", "rounds.html", *sections]
        elif not (run.metrics or run.config_text or run.retrieval or run.caption):
            # A folder of an evaluation alone, of which nothing else is to be expected.
            sections = ["plain_headline.html", "cases.html"]
            named = ", ".join(part["title"] for part in values["cases"])
            values["headline"]["sentence"] = named or "An evaluation"
    elif parts.rounds:
        sections = ["plain_headline.html"]
        sentence = values["rounds"]["sentence"]
        values["headline"] = {"sentence": sentence, "comparison": "", "facts": []}
    else:
        sections = ["plain_headline.html"]
        values["headline"] = values["capfilt"]["headline"]
    if parts.rounds and not looped:
        sections.append("rounds.html")
    if capfilt:
        sections += ["threshold.html", "samples.html", "reasons.html"]
    if looped:
        sections.append("curves.html")
    elif run and sections[0] == "headline.html":
        sections += ["curves.html", "data.html"]
    values["capfilt_round"] = parts.capfilt_round
    values["capfilt_leads"] = capfilt is not None and not run and not parts.rounds
    return [*sections, "configuration.html"], values
