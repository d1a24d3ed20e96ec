"""One shard's table of candidate texts as columns, read without trust."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.report.run_folder import LARGEST_FILE

COLUMNS = ("uid", "key", "source", "text", "itm_score", "itc_score", "kept", "reason")
SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Texts:
    """A shard's candidate texts, N of them over P pictures, those of a picture side by side.

    Attributes:
        shard: its name.
        itm: [N] float64 matching probabilities, NaN where a text was not scored.
        itc: [N] float64 cosines, NaN likewise.
        synthetic: [N] whether a text was made by the captioner.
        kept: [N] the verdict.
        reasons: [N] its reason, as a number in `reason_names`.
        reason_names: all reasons that occur.
        starts: [P] where each picture's texts begin.
    """

    shard: str
    itm: np.ndarray
    itc: np.ndarray
    synthetic: np.ndarray
    kept: np.ndarray
    reasons: np.ndarray
    reason_names: list[str]
    starts: np.ndarray
    _strings: dict[str, pa.Array]

    @property
    def scored(self) -> np.ndarray:
        """[N] whether a text has scores."""
        return np.isfinite(self.itm) & np.isfinite(self.itc)

    @property
    def pictures(self) -> np.ndarray:
        """[N] number of the picture a text belongs to, ascending."""
        begins = np.zeros(len(self.itm), np.int64)
        begins[self.starts] = 1
        return np.cumsum(begins) - 1

    def string(self, column: str, row: int) -> str:
        """A value of `uid`, `key` or `text`; bytes that are no UTF-8 are replaced."""
        return (self._strings[column][row].as_py() or b"").decode("utf-8", "replace")

    def uids(self) -> list[bytes]:
        """[P] names of the pictures."""
        taken = self._strings["uid"].take(pa.array(self.starts))
        return [uid or b"" for uid in taken.to_pylist()]


def read_texts(path: Path, notes: list[str]) -> Texts | None:
    """A shard's texts; None with a note where the file is not such a table, or holds nothing."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"larger than {LARGEST_FILE >> 20} MiB")
        table = pq.read_table(path, columns=list(COLUMNS), page_checksum_verification=True)
        columns = {name: table.column(name).combine_chunks() for name in COLUMNS}
        strings = {name: columns[name].cast(pa.binary()) for name in ("uid", "key", "text")}
        scores = {
            name: columns[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
            for name in ("itm_score", "itc_score")
        }
        sources = columns["source"].cast(pa.binary())
        kept = columns["kept"].cast(pa.bool_()).fill_null(False)
        reasons = columns["reason"].cast(pa.binary()).fill_null(b"").dictionary_encode()
        keys = strings["key"].fill_null(b"").to_numpy(zero_copy_only=False)
        synthetic = sources.fill_null(b"").to_numpy(zero_copy_only=False) == SYNTHETIC.encode()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        notes.append(f"table/{path.name} is left out: {problem}")
        return None
    if not len(keys):
        return None
    return Texts(
        shard=path.stem,
        itm=scores["itm_score"],
        itc=scores["itc_score"],
        synthetic=np.asarray(synthetic, bool),
        kept=kept.to_numpy(zero_copy_only=False).astype(bool),
        reasons=reasons.indices.to_numpy(zero_copy_only=False),
        reason_names=[name.decode("utf-8", "replace") for name in reasons.dictionary.to_pylist()],
        starts=np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])),
        _strings=strings,
    )
