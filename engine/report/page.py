"""One HTML file about a run: it loads nothing, runs no script and trusts no caption."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.config import ConfigError
from engine.report.curves import curves
from engine.report.examples import captions, picture_keys, queries
from engine.report.machine import machine
from engine.report.run_folder import RunFolder, clip, read_run
from engine.report.scores import directions, percent, summary
from engine.report.sections import data_facts, headline
from engine.report.thumbnails import held_out_thumbnails, is_picture

TEMPLATES = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """A report to make.

    Args:
        run: folder of the run: one that holds `pretrain/`, or a pretraining folder itself.
        output: HTML file to write; null takes report.html in the run's folder.
    """

    run: str = "runs/quickstart"
    output: str | None = None


def write_report(config: ReportConfig, progress: Callable[[str], None] = print) -> Path:
    """Make the report of a run and return its path. An older report is replaced at once.

    Args:
        config: what to read and where to write.
        progress: takes the retrieval figures beside chance and the path, a line each.

    Raises:
        ConfigError: nothing to report, or the file cannot be written.
    """
    run = read_run(Path(config.run))
    page = build_page(run, held_out_thumbnails(run, picture_keys(run)))
    output = Path(config.output) if config.output else run.root / "report.html"
    if output.is_dir():
        raise ConfigError(f"--output {output}: is a folder; name an .html file")
    if output.exists() and not _is_report(output):
        raise ConfigError(f"--output {output}: exists and is no report; nothing is written over")
    building = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            building.write_text(page, encoding="utf-8", errors="replace")
            os.replace(building, output)
        except OSError:
            building.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"--output {output}: cannot be written: {error.strerror}") from None
    for line in summary(directions(run.retrieval)):
        progress(line)
    progress(f"report: {output}")
    return output


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(1 << 10)
    return start.startswith(b"<!doctype html>") and b"Content-Security-Policy" in start


def build_page(run: RunFolder, thumbnails: Mapping[str, str]) -> str:
    """The page as text.

    Args:
        run: what the run left.
        thumbnails: sample key to data URI (WebP, JPEG or PNG); anything else is not shown.
    """
    pictures = {key: uri for key, uri in thumbnails.items() if is_picture(uri)}
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    name = clip(run.root.resolve().name, 80)
    top = headline(run)
    return environment.get_template("page.html").render(
        name=name,
        title=f"{name}: {top['sentence']}",
        made=datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        notes=[clip(note) for note in run.notes],
        headline=top,
        captions=captions(run, pictures),
        queries=queries(run, pictures),
        curves=curves(run),
        data=data_facts(run),
        configuration=run.config_text,
        machine=machine(),
    )
