"""Captioning and filtering on a page: what the templates show and what the script works with."""

from pathlib import Path
from typing import Any

from engine.report.capfilt_data import SampleData
from engine.report.capfilt_folder import CapFiltFolder
from engine.report.capfilt_pictures import sample_thumbnails
from engine.report.capfilt_samples import tally
from engine.report.capfilt_sections import command, headline, limits, reasons, throughput
from engine.report.capfilt_table import read_texts
from engine.report.histogram import histogram


class CapFiltPart:
    """The part of a page about a captioning-and-filtering run; its tables are read once.

    Args:
        folder: of the run.
        inputs: input shards by name, where the caller knows them; None takes those that the run's
            settings name.
    """

    def __init__(self, folder: CapFiltFolder, inputs: dict[str, Path] | None = None) -> None:
        self.folder = folder
        self.inputs = folder.inputs() if inputs is None else inputs
        tables = (read_texts(path, folder.notes) for path in folder.tables)
        self.tally = tally((texts for texts in tables if texts), folder.rule)

    def view(self) -> dict[str, Any]:
        """Values for the templates."""
        folder, bins = self.folder, self.tally.bins
        texts = self.tally.web.total() + self.tally.synthetic.total()
        counted = sum(int(bins.counts[part].sum()) for part in ("web", "synthetic"))
        return {
            "headline": headline(folder, self.tally),
            "charts": [
                {"axis": "itm", "title": "Matching score", "own": folder.rule.itm_threshold}
                | {"explanation": "ITM: how probable it is that text and picture match"}
                | histogram(bins, "itm", folder.rule.itm_threshold),
                {"axis": "itc", "title": "Similarity", "own": folder.rule.itc_threshold}
                | {"explanation": "ITC: cosine of the text's and the picture's embeddings"}
                | histogram(bins, "itc", folder.rule.itc_threshold),
            ],
            "limits": limits(folder),
            "by_text": f"{texts - counted:,}" if texts > counted else "",
            "reasons": reasons(folder, self.tally),
            "throughput": throughput(folder),
            "shown": len(self.tally.sample),
            "pictures": self.tally.pictures,
        }

    def data(self, room: int) -> str:
        """The script's data as JSON of at most about `room` bytes."""
        data = SampleData(self.folder, self.tally, command(self.folder), room)
        sample = self.tally.sample
        thumbnails = sample_thumbnails(self.folder, self.inputs, sample, data.room)
        return data.dumped(thumbnails)
