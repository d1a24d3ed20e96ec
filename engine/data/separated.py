"""CSV and TSV as people write them: what a stray quote opens swallows no rows.

CSV is read by RFC 4180. TSV has no such rules: some programs quote as in CSV, others never do.
"""

import csv
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

TAB, COMMA = "\t", ","
QUOTED = re.compile(r'"((?:[^"]|"")*)"')
STRAY = "a quote that is not closed, or closed in the middle of a field"


class _Lines:
    """Lines that can be put back; those taken since are kept."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self._back = iter(lines), deque[str]()
        self.taken: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.taken.append(line)
        return line

    def put_back_all_but_one(self) -> str:
        """The first line; those after it come again."""
        first, *rest = self.taken
        self._back.extendleft(reversed(rest))
        return first


def rows_of(lines: Iterable[str], delimiter: str) -> Iterator[list[str] | None]:
    """The fields of every row that is not empty.

    A row of CSV whose quotes are none is None, and so is one with a field of more than
    `csv.field_size_limit()` characters; the next one begins on the next line. In TSV such a line is
    taken as it stands, and so is one whose quote would reach over other rows.

    Args:
        lines: with their ends, as of a file that was opened with `newline=""`.
        delimiter: `TAB` or `COMMA`.
    """
    source = _Lines(lines)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        source.taken.clear()
        row: list[str] | None
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            row = None
        if row is None or (delimiter == TAB and any(map(_reaches_over_rows, row))):
            line = source.put_back_all_but_one()
            row = _as_it_stands(line) if delimiter == TAB else None
        if row != []:
            yield row


def _reaches_over_rows(field: str) -> bool:
    return TAB in field and ("\n" in field or "\r" in field)


def _as_it_stands(line: str) -> list[str] | None:
    fields = []
    for field in line.rstrip("\r\n").split(TAB):
        quoted = QUOTED.fullmatch(field)
        fields.append(quoted[1].replace('""', '"') if quoted else field)
    return fields if max(map(len, fields)) <= csv.field_size_limit() else None


def read_table(path: Path, texts: Collection[str]) -> pa.Table:
    """A whole file; the first row names the columns.

    Args:
        path: what ends in .tsv is one, all else CSV.
        texts: columns, named in any case, that are texts even where they are nothing but digits.

    Raises:
        OSError: it cannot be read.
        ValueError: it is empty or no such file; `Row #n` says where, the columns' names being 1.
    """
    is_tabs = path.suffix == ".tsv"
    if is_tabs and _has_quotes(path):
        return _quoted(path)
    options = pa.csv.ParseOptions(
        delimiter=TAB if is_tabs else COMMA,
        quote_char=False if is_tabs else '"',
        newlines_in_values=not is_tabs,
    )
    # As they stand there: a column of nothing but digits is no column of numbers.
    named = [name for name in _names(path, options.delimiter) if name.strip().lower() in texts]
    kinds = pa.csv.ConvertOptions(column_types=dict.fromkeys(named, pa.string()))
    # Only one thread knows the row of a fault; it is no slower.
    table = pa.csv.read_csv(path, pa.csv.ReadOptions(use_threads=False), options, kinds)
    try:
        columns = table.columns
    except UnicodeDecodeError:
        # Arrow decodes names when they are looked at.
        raise ValueError("names of columns are not UTF-8") from None
    if any(map(_has_lines, columns)):
        # Arrow lets a stray quote swallow rows.
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(rows_of(file, COMMA), 1):
                if row is None:
                    raise ValueError(f"Row #{number}: {STRAY}")
    return table


def _names(path: Path, delimiter: str) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(rows_of(file, delimiter), None) or []


def _has_lines(column: pa.ChunkedArray) -> bool:
    is_text = pa.types.is_string(column.type)
    return is_text and bool(pc.any(pc.match_substring(column, "\n")).as_py())


def _has_quotes(path: Path) -> bool:
    with path.open("rb") as file:
        return any(b'"' in part for part in iter(lambda: file.read(1 << 20), b""))


def _quoted(path: Path) -> pa.Table:
    """TSV with quotes: Arrow knows one way of them alone."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = rows_of(file, TAB)
        names = next(rows, None) or []
        columns: list[list[str]] = [[] for _ in names]
        for number, row in enumerate(rows, 2):
            if row is None or len(row) != len(names):
                found = "a field that is too long" if row is None else f"got {len(row)}"
                raise ValueError(f"Row #{number}: Expected {len(names)} columns, {found}")
            for column, field in zip(columns, row, strict=True):
                column.append(field)
    arrays = [pa.array(column, pa.string()) for column in columns]
    return pa.Table.from_arrays(arrays, names=names)
