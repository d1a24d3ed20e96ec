"""Headers before a member: believed where they hold together, else it is named and left out."""

import io
import struct
import tarfile
from pathlib import Path

import pytest

from engine.data import tar_members
from engine.data.index import ShardError, build_index
from engine.data.shards import Shards
from engine.data.tar_members import Member, members
from tests.shards import picture

END = bytes(1024)
LONG = "folder/" + "x" * 150 + ".png"


def header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    """A ustar header by hand."""
    fields = struct.pack("100s8s8s8s12s12s", name, b"644", b"0", b"0", b"%011o" % size, b"0")
    rest = kind + bytes(100) + b"ustar\x0000" + bytes(247)
    total = sum(fields) + 8 * 32 + sum(rest)
    return fields + b"%06o\0 " % total + rest


def entry(name: bytes, content: bytes, kind: bytes = b"0") -> bytes:
    return header(name, len(content), kind) + content + bytes(-len(content) % 512)


def record(key: str, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE` and a line's end, its own length counted."""
    rest = b" %s=%s\n" % (key.encode(), value)
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    return entry(b"PaxHeaders/0", b"".join(records), kind)


def walked(path: Path, *parts: bytes) -> list[tuple[str, bytes, str]]:
    """Name, content and problem of every member that a walk over these parts finds."""
    path.write_bytes(b"".join(parts) + END)
    with path.open("rb") as file:
        found = list(members(file, path))
        return [(one.name, content_of(file, one), one.problem) for one in found]


def content_of(file: io.BufferedReader, one: Member) -> bytes:
    file.seek(one.offset)
    return file.read(one.size)


GOOD, SHORT = record("path", LONG.encode()), entry(b"short.png", b"pixels")
BAD_SETTINGS = {
    "length too small": b"5 " + GOOD[4:],
    "length too large": b"999" + GOOD[3:],
    "length of no digits": b"0x9 path=a.png\n",
    "length of many digits": b"9" * 5000 + b" path=a.png\n",
    "no length": b"path=a.png\n",
    "length nought": b"0 path=a.png\n",
    "no end of the line": GOOD[:-1] + b"!",
    "no equals sign": b"12 path a.b\n",
    "no key": b"8 =a.bc\n",
    "a good one first": GOOD + b"7 rub\n\n",
    "a name with a zero": record("path", b"a.png\0.txt"),
    "a name without measure": record("path", b"x" * (1 << 16) + b".png"),
    "a size that is none": record("size", b"-6"),
    "a size without measure": record("size", b"9" * 5000),
}


@pytest.mark.parametrize("content", BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_settings_that_do_not_hold_together(tmp_path: Path, content: bytes) -> None:
    """The member has its short name and is never read; the one behind it is."""
    parts = (pax(content), SHORT, entry(b"next.png", b"more"))
    assert walked(tmp_path / "x.tar", *parts) == [
        ("short.png", b"pixels", "bad_header"),
        ("next.png", b"more", ""),
    ]


def test_settings_that_do(tmp_path: Path) -> None:
    line = record("comment", b"a line\n21 path=stolen.png\n")
    cases = {
        "a name": (pax(GOOD), LONG),
        "a line's end in a value": (pax(line, GOOD), LONG),
        "the last of two records": (pax(record("path", b"old.png"), GOOD), LONG),
        "a value that is taken back": (pax(record("path", b"")), "short.png"),
        "bytes that are no text": (pax(record("path", b"caf\xe9.png")), "caf\\xe9.png"),
        "filled up with zeros": (pax(GOOD, bytes(9)), LONG),
        "nothing": (pax(), "short.png"),
        "of Solaris": (pax(GOOD, kind=b"X"), LONG),
        "a comment of all": (pax(record("comment", b"0123abc"), kind=b"g"), "short.png"),
        "a long name": (entry(b"././@LongLink", LONG.encode() + b"\0", b"L"), LONG),
        "a long name and a time": (
            entry(b"././@LongLink", LONG.encode() + b"\0", b"L") + pax(record("mtime", b"1.5")),
            LONG,
        ),
        "a long name that ends before": (
            entry(b"././@LongLink", LONG.encode() + b"\0.txt", b"L"),
            LONG,
        ),
        "the same name twice": (pax(GOOD) + entry(b"L", LONG.encode(), b"L"), LONG),
    }
    for what, (before, name) in cases.items():
        parts = (before, SHORT, entry(b"next.png", b"more"))
        expected = [(name, b"pixels", ""), ("next.png", b"more", "")]
        assert walked(tmp_path / "x.tar", *parts) == expected, what


def test_names_that_contradict_each_other_are_nobodys(tmp_path: Path) -> None:
    other = entry(b"././@LongLink", b"other.png\0", b"L")
    for before in (pax(GOOD) + other, other + pax(GOOD)):
        assert walked(tmp_path / "x.tar", before, SHORT) == [("short.png", b"pixels", "bad_header")]


def test_a_sparse_file_stays_one_whatever_follows(tmp_path: Path) -> None:
    before = pax(record("GNU.sparse.major", b"1")) + entry(b"L", LONG.encode(), b"L")
    assert walked(tmp_path / "x.tar", before, SHORT) == [(LONG, b"pixels", "sparse_file")]


@pytest.mark.parametrize(
    "content",
    [record("path", b"all.png"), record("size", b"6"), record("GNU.sparse.size", b"6"), b"rubbish"],
)
def test_settings_of_all_members_that_name_each(tmp_path: Path, content: bytes) -> None:
    """Python's tarfile would call all that follow by one name."""
    parts = (SHORT, pax(content, kind=b"g"), entry(b"a.png", b"a"), entry(b"b.png", b"b"))
    assert walked(tmp_path / "x.tar", *parts) == [
        ("short.png", b"pixels", ""),
        ("a.png", b"a", "bad_header"),
        ("b.png", b"b", "bad_header"),
    ]


def test_a_size_beyond_its_field_is_taken(tmp_path: Path) -> None:
    """As of members above 8 GiB, whose own header says nought."""
    hidden = entry(b"hidden.png", b"in it")
    big = header(b"big.png", 0) + hidden
    parts = (pax(record("size", b"%d" % len(hidden))), big, entry(b"next.png", b"more"))
    assert walked(tmp_path / "x.tar", *parts) == [
        ("big.png", hidden, ""),
        ("next.png", b"more", ""),
    ]
    for size in (b"99999", b"9" * 19):
        with pytest.raises(ShardError, match="reaches beyond the end"):
            walked(tmp_path / "x.tar", pax(record("size", size)), SHORT)


def test_headers_without_measure_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_members, "MAX_SETTINGS", 2048)
    for before in (pax(GOOD, record("x", bytes(2048))), entry(b"L", b"a" * 2049, b"L")):
        assert walked(tmp_path / "x.tar", before, SHORT) == [("short.png", b"pixels", "bad_header")]


def test_a_folder_of_a_bad_name_is_no_folder(tmp_path: Path) -> None:
    parts = (pax(b"rubbish"), entry(b"cut/", b"pixels"), entry(b"real/", b""))
    assert walked(tmp_path / "x.tar", *parts) == [("cut/", b"pixels", "bad_header")]


def test_what_tarfile_writes_is_what_it_reads(tmp_path: Path) -> None:
    """Names of every length and alphabet, in its three formats."""
    names = [f"{'d/' * n}{'é' * n}{n}.png" for n in range(1, 180, 7)]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form, pax_headers={"comment": "one"}) as tar:
            for number, name in enumerate(names):
                member = tarfile.TarInfo(name)
                member.size = number
                tar.addfile(member, io.BytesIO(b"x" * number))
        with path.open("rb") as file:
            found = list(members(file, path))
        assert [(one.name, one.size, one.problem) for one in found] == [
            (name, number, "") for number, name in enumerate(names)
        ]


def test_a_sample_with_such_a_member_is_named_and_the_others_read(tmp_path: Path) -> None:
    shard = tmp_path / "x.tar"
    parts = [entry(b"good.png", picture(1)), entry(b"good.txt", b"a fox"), pax(b"rubbish")]
    parts += [entry(b"bad.png", picture(2)), entry(b"bad.txt", b"a dog")]
    shard.write_bytes(b"".join(parts) + END)
    index = build_index(shard)
    assert index.keys.to_pylist() == ["good"]
    assert [(one.key, one.reason) for one in index.unread] == [("bad", "bad_header")]
    assert Shards([shard]).read(0).captions == ["a fox"]
