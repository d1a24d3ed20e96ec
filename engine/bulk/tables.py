"""Rows into a file that appears under its name when it is whole: Parquet, CSV, JSON lines, npy."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.config import ConfigError
from engine.durable import sync

ROWS = 4096
# The column that is an array of numbers.
FEATURE = "feature"


class Table(Protocol):
    """A file in the making."""

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows: a value for each column."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class ParquetTable:
    """Rows in groups of thousands, with a checksum a page."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self._waiting = schema, []
        self._file = pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        self._waiting += rows
        if len(self._waiting) >= ROWS:
            self._write()

    def _write(self) -> None:
        columns = {name: [row[name] for row in self._waiting] for name in self._schema.names}
        self._file.write_table(pa.table(columns, self._schema))
        self._waiting = []

    def close(self) -> None:
        if self._waiting:
            self._write()
        self._file.close()


class CsvTable:
    """A line of names, then a line a row."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._names = schema.names
        self._file = path.open("w", encoding="utf-8", newline="")
        self._lines = csv.writer(self._file)
        self._lines.writerow(self._names)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        self._lines.writerows([row[name] for name in self._names] for row in rows)

    def close(self) -> None:
        self._file.close()


class JsonLines:
    """An object a line."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._names = schema.names
        self._file = path.open("w", encoding="utf-8")

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            chosen = {name: row[name] for name in self._names}
            self._file.write(json.dumps(chosen, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class NpyArray:
    """The features alone, [N, E] float32."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._width, self._count = schema.field(FEATURE).type.list_size, 0
        self._file = path.open("wb")
        self._head()

    def _head(self) -> None:
        """NumPy leaves room for a larger number of rows, so that the head can be written anew."""
        shape = (self._count, self._width)
        facts = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, facts)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        features = np.asarray([row[FEATURE] for row in rows], "<f4")
        self._file.write(features.tobytes())
        self._count += len(features)

    def close(self) -> None:
        self._file.seek(0)
        self._head()
        self._file.close()


KINDS = {".parquet": ParquetTable, ".csv": CsvTable, ".jsonl": JsonLines, ".npy": NpyArray}
SUFFIXES = tuple(KINDS)


class Output:
    """Files in the making, which get the same rows.

    Beside an .npy array NAME.jsonl holds the other columns: a line a row of the array.

    Args:
        path: its ending says how it is written.
        schema: names and kinds of the columns.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        named = pa.schema([field for field in schema if field.name != FEATURE])
        self.path, self._files = path, _files(path)
        with self._writing():
            self._tables: list[Table] = [KINDS[path.suffix](_partial(path), schema)]
            self._tables += [JsonLines(_partial(file), named) for file in self._files[1:]]

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows: a value for each column."""
        with self._writing():
            for one in self._tables:
                one.add(rows)

    def finish(self) -> None:
        """Give the files their names, the array last: with it the other columns are there."""
        with self._writing():
            for one in self._tables:
                one.close()
            for file in self._files:
                if os.path.lexists(file):
                    raise ConfigError(f"output {file}: appeared meanwhile; it is not written over")
            for file in reversed(self._files):
                sync(_partial(file))
                os.replace(_partial(file), file)

    def discard(self) -> None:
        """Remove what did not get its name."""
        for file in self._files:
            _partial(file).unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            problem = f"cannot be written: {error.strerror}"
            raise ConfigError(f"output {self.path}: {problem}") from None


def refuse_existing(path: Path) -> None:
    """What is there is not written over.

    Raises:
        ConfigError: a file that exists, or a folder that cannot be written to.
    """
    for file in _files(path):
        if os.path.lexists(file):
            raise ConfigError(f"output {file}: exists already; remove it or choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _partial(path).touch()
        _partial(path).unlink()
    except OSError as error:
        raise ConfigError(f"output {path}: cannot be written: {error.strerror}") from None


@contextmanager
def table(path: Path, schema: pa.Schema) -> Iterator[Output]:
    """A table to add rows to: under its name at the end, nowhere after an error."""
    output = Output(path, schema)
    try:
        yield output
        output.finish()
    finally:
        output.discard()


def _files(path: Path) -> list[Path]:
    return [path, path.with_suffix(".jsonl")] if path.suffix == ".npy" else [path]


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def storable(text: Any) -> str:
    """Text as any file can hold it: bytes of a name that are no UTF-8 become escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode()
