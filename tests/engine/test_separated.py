"""CSV and TSV with quotes that are none, which must not swallow rows or join the wrong pairs."""

import random
from pathlib import Path

import pyarrow as pa
import pytest

from engine.collect.web.lists import Lists
from engine.config import ConfigError
from engine.data.open_source import open_source
from engine.data.separated import COMMA, TAB, read_table, rows_of

STRAY = [
    ("a.png", '"Bonjour, said the sign'),
    ("b.png", "a red house"),
    ("c.png", '12" pizza "on a plate"'),
    ("d.png", '"Goodbye" said the other'),
    ("e.png", '"all of it"'),
    ("f.png", 'a sign that says "hi"'),
    ("g.png", '"'),
    ("h.png", "the last one"),
]
READ = [*STRAY[:4], ("e.png", "all of it"), *STRAY[5:]]


@pytest.mark.parametrize("turned", [False, True])
def test_quotes_of_tsv_that_are_not_quoted_are_text(tmp_path: Path, turned: bool) -> None:
    rows = [("image", "caption"), *STRAY]
    path = tmp_path / "a.tsv"
    path.write_text("".join(TAB.join(reversed(row) if turned else row) + "\n" for row in rows))
    source = open_source(str(path))
    assert [(s.key, s.captions[0]) for s in map(source.read, range(len(source)))] == READ
    path.write_text(path.read_text().replace("image", "url"))
    assert [(row.url, row.caption) for row in Lists([str(path)]).rows()] == READ


def test_any_rows_survive_as_programs_quote_them(tmp_path: Path) -> None:
    """What Python's own writer makes of them, for both kinds; and TSV without any quoting."""
    import csv

    draw = random.Random(0)
    for number in range(300):
        names = [f"{n}.png" for n in range(draw.randrange(1, 6))]
        rows = [(name, "".join(draw.choices('ab,"" \n', k=draw.randrange(9)))) for name in names]
        for suffix, delimiter in ((".csv", COMMA), (".tsv", TAB)):
            path = tmp_path / f"{number}{suffix}"
            with path.open("w", newline="") as file:
                csv.writer(file, delimiter=delimiter).writerows([("image", "caption"), *rows])
            table = read_table(path, ["image", "caption"])
            assert list(zip(*table.to_pydict().values(), strict=True)) == rows
        plain = [(name, text.replace("\n", "").replace('"', "'")) for name, text in rows]
        lines = [f"{name}\t{text}\n" for name, text in plain]
        assert [tuple(row or ()) for row in rows_of(lines, TAB)] == plain


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ('"never closed\nb.png,x\n', True),
        ('"a\nb" c\nb.png,x\n', True),
        # No row is swallowed: one caption lacks a quote.
        ('"Goodbye"\nc.png,"he said "hi"\nd.png,y\n', False),
    ],
)
def test_stray_quotes_of_csv(tmp_path: Path, text: str, refused: bool) -> None:
    path = tmp_path / "a.csv"
    path.write_text("image,caption\na.png," + text)
    if refused:
        with pytest.raises(ConfigError, match=r"a.csv: not readable as csv: Row #2: a quote that"):
            open_source(str(path))
    else:
        assert len(open_source(str(path))) == 3
    path.write_text("url,caption\n0.png,before\na.png," + text + "z.png,after\n")
    found = [(row.url, row.caption) for row in Lists([str(path)]).rows()]
    # Each pair is one that stands there, and every line that is none is a row of its own.
    lines = path.read_text().splitlines()[1:]
    assert len(found) == len(lines)
    for pair, line in zip(found, lines, strict=True):
        assert None in pair or ",".join(map(str, pair)) == line.replace('"', "")
    assert found[-1] == ("z.png", "after")
    assert any(None in pair for pair in found)


def test_rows_of_lists_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = ["url,caption", "u,red, green and blue", "u,fine,", 'u,"' + "y" * 200_000, "u,good"]
    path.write_text("\n".join(rows) + "\n")
    found = [(row.url, row.caption) for row in Lists([str(path)]).rows()]
    assert found == [(None, None), ("u", "fine"), (None, None), ("u", "good")]


def test_lists_of_another_encoding_give_no_wrong_letters(tmp_path: Path) -> None:
    for suffix, mark in ((".csv", ","), (".tsv", "\t")):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(f"url{mark}caption\nu{mark}für\nv{mark}rot\n".encode("latin-1"))
        assert [row.caption for row in Lists([str(path)]).rows()] == [None, "rot"]


def test_tsv_with_too_many_fields_names_the_row(tmp_path: Path) -> None:
    for text in ("a.png\tx\nb.png\ty\tz\n", 'a.png\t"x"\nb.png\ty\tz\n'):
        (tmp_path / "a.tsv").write_text("image\tcaption\n" + text)
        with pytest.raises(ConfigError, match="Row #3: Expected 2 columns, got 3"):
            open_source(str(tmp_path / "a.tsv"))


def test_columns_keep_their_kinds_and_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(" Caption,n,image\n007,1,x\n8,2,y\n")
    table = read_table(tmp_path / "a.csv", ["caption", "image"])
    assert table.schema.types == [pa.string(), pa.int64(), pa.string()]
    assert table[" Caption"].to_pylist() == ["007", "8"]
