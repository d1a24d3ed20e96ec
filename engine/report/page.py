"""One HTML file about a run: it loads nothing, runs no script and trusts no caption."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.config import ConfigError
from engine.report.machine import machine
from engine.report.run_folder import RunFolder, read_run
from engine.report.scores import percent
from engine.report.sections import (
    MOST_CAPTIONS,
    MOST_QUERIES,
    captions,
    clip,
    curves,
    data_facts,
    headline,
    queries,
)
from engine.report.thumbnails import held_out_thumbnails

TEMPLATES = Path(__file__).parent
LARGEST_PICTURE = 64_000
PICTURE = re.compile(r"data:image/(?:webp|jpeg|png);base64,[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """A report to make.

    Args:
        run: folder of the run: one that holds `pretrain/`, or a pretraining folder itself.
        output: HTML file to write; null takes report.html in the run's folder.
    """

    run: str = "runs/quickstart"
    output: str | None = None


def write_report(config: ReportConfig) -> Path:
    """Make the report of a run and return its path. An older report is replaced at once.

    Raises:
        ConfigError: nothing to report, or the file cannot be written.
    """
    run = read_run(Path(config.run))
    page = build_page(run, held_out_thumbnails(run, example_keys(run)))
    output = Path(config.output) if config.output else run.root / "report.html"
    if output.is_dir():
        raise ConfigError(f"--output {output}: is a folder; name an .html file")
    building = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        building.write_text(page, encoding="utf-8", errors="replace")
        os.replace(building, output)
    except OSError as error:
        building.unlink(missing_ok=True)
        raise ConfigError(f"--output {output}: cannot be written: {error.strerror}") from None
    return output


def example_keys(run: RunFolder) -> set[str]:
    """Names of the samples whose pictures the page shows."""
    keys = [card["key"] for card in captions(run, {})["cards"][:MOST_CAPTIONS]]
    for row in queries(run, {})["rows"][:MOST_QUERIES]:
        keys += [row["truth"]["key"], *(hit["key"] for hit in row["top"])]
    return {key for key in keys if key}


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


def is_picture(uri: object) -> bool:
    """Whether a value is a data URI of a small raster picture and nothing more."""
    return (
        isinstance(uri, str) and len(uri) <= LARGEST_PICTURE and PICTURE.fullmatch(uri) is not None
    )
