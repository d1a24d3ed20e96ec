"""Pairs of a cleaned set, one a kept text: a picture that keeps two texts is two pairs.

So does the paper count them (Li et al. 2022, section 3.3): the cleaned set is the kept web pairs,
and beside them the kept synthetic pairs. Read as plain shards, a picture would come once an epoch,
with one of its texts drawn.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.config import ConfigError
from engine.data.shards import Shards
from engine.data.source import RawSample

SHARDS, TABLE = "shards", "table"


NOTHING_KEPT = (
    "captioning and filtering kept not one text there: lower rule.itm_threshold (capfilt.py "
    "--from_table needs no model), or tune the filter longer or on more clean pairs"
)


def is_cleaned(folder: Path) -> bool:
    """Whether a folder is the output of a captioning-and-filtering run."""
    return (folder / SHARDS).is_dir() and (folder / TABLE).is_dir()


class KeptTexts:
    """The pairs of a captioning-and-filtering output.

    Args:
        folder: the run's output_dir.

    Raises:
        ConfigError: a table that is missing, unreadable, or of another shard.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = sorted((folder / SHARDS).glob("*.tar"))
        self._shards = Shards(self.paths)
        counts = []
        for tar, length in zip(self.paths, self._shards.lengths, strict=True):
            counts.append(kept_counts(folder / TABLE / f"{tar.stem}.parquet"))
            if len(counts[-1]) != length:
                raise ConfigError(
                    f"{tar} has {length} pictures but its table keeps {len(counts[-1])}: they are "
                    "not of one captioning-and-filtering run"
                )
        self.lengths = [int(count.sum()) for count in counts]
        # Ends[n]: pairs of the pictures up to and with the n-th.
        self._ends = np.cumsum(np.concatenate([*counts, np.zeros(0, np.int64)]))

    def __len__(self) -> int:
        return sum(self.lengths)

    @property
    def fingerprint(self) -> str:
        """Hash over the shards, whose members hold the texts."""
        return f"each text of {self._shards.fingerprint}"

    def read(self, number: int) -> RawSample:
        """The pair of this number; damage is a `problem` of it."""
        picture = int(np.searchsorted(self._ends, number, "right"))
        first = int(self._ends[picture - 1]) if picture else 0
        sample = self._shards.read(picture)
        mine = slice(number - first, number - first + 1)
        return replace(sample, captions=sample.captions[mine], synthetic=sample.synthetic[mine])


def kept_counts(table: Path) -> np.ndarray:
    """How many texts each picture keeps that keeps any, in order: [pictures] int64.

    Args:
        table: Parquet file of a shard's candidate texts.

    Raises:
        ConfigError: missing or not readable.
    """
    try:
        rows = pq.read_table(table, columns=["key", "kept"], page_checksum_verification=True)
        kept = rows["kept"].to_numpy().astype(bool)
        keys = rows["key"].combine_chunks().dictionary_encode()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{table}: not a readable table of candidate texts: {problem}") from None
    pictures = keys.indices.to_numpy()[kept]
    # Rows of a picture stand together, and pictures are numbered in the order of their first row.
    return np.unique(pictures, return_counts=True)[1].astype(np.int64)
