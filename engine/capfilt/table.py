"""The Parquet table: a row a candidate text, the same bytes for the same rows."""

import io
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from engine.capfilt.config import RuleSection
from engine.capfilt.rule import KEPT, Candidate, judge
from engine.config import ConfigError

SCHEMA = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("itm_score", pa.float32()),
        pa.field("itc_score", pa.float32()),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Scored:
    """A picture and its candidate texts.

    Attributes:
        key: of the sample.
        uid: of the sample.
        candidates: texts as they are stored, then new synthetic ones by number.
    """

    key: str
    uid: str
    candidates: list[Candidate]


@dataclass(frozen=True)
class Judged:
    """A scored picture with a reason for each text; see `rule.judge`."""

    scored: Scored
    reasons: list[str]

    @property
    def kept(self) -> list[Candidate]:
        """The texts that stay, in order."""
        pairs = zip(self.scored.candidates, self.reasons, strict=True)
        return [candidate for candidate, reason in pairs if reason == KEPT]


def judge_all(pictures: Iterable[Scored], rule: RuleSection) -> list[Judged]:
    """Apply the rule to each picture."""
    return [Judged(picture, judge(picture.candidates, rule)) for picture in pictures]


def to_bytes(pictures: Iterable[Judged]) -> bytes:
    """The table as a Parquet file."""
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    for picture in pictures:
        for one, reason in zip(picture.scored.candidates, picture.reasons, strict=True):
            columns["uid"].append(picture.scored.uid)
            columns["key"].append(picture.scored.key)
            columns["source"].append(one.source)
            columns["text"].append(one.text)
            columns["itm_score"].append(one.itm)
            columns["itc_score"].append(one.itc)
            columns["kept"].append(reason == KEPT)
            columns["reason"].append(reason)
    return stored(pa.table(columns, SCHEMA))


def stored(table: pa.Table) -> bytes:
    """Such a table as a Parquet file."""
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", write_page_checksum=True)
    return out.getvalue()


def read_stored(content: bytes, name: str) -> pa.Table:
    """A Parquet file as such a table.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        ConfigError: not such a table, or a damaged one.
    """
    try:
        table = pq.read_table(io.BytesIO(content), page_checksum_verification=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{name}: not a readable Parquet table: {problem}") from None
    if not table.schema.equals(SCHEMA):
        raise ConfigError(f"{name}: not a table of candidate texts: {table.schema.names}")
    return table


def from_bytes(content: bytes, name: str) -> list[Scored]:
    """Pictures in the order of a table, see `read_stored`."""
    pictures: list[Scored] = []
    for row in read_stored(content, name).to_pylist():
        if not pictures or pictures[-1].key != row["key"]:
            pictures.append(Scored(row["key"], row["uid"], []))
        scored = row["itm_score"] is not None
        pictures[-1].candidates.append(
            Candidate(
                row["source"],
                row["text"],
                row["itm_score"],
                row["itc_score"],
                "" if scored else row["reason"],
            )
        )
    return pictures
