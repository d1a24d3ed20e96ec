"""Cleaned shards of odd names and odd captions: what was there is still there."""

import base64
import io
import json
import tarfile
from pathlib import Path

import pytest

from engine.capfilt.cleaned import write_cleaned
from engine.capfilt.rule import Candidate
from engine.capfilt.table import Judged, Scored
from engine.data.index import ShardError
from engine.data.shards import Shards
from tests.shards import picture

WEB = Candidate("web", "a web text", 0.9, 0.1)
MADE = Candidate("synthetic", "a made text", 0.9, 0.1)
KEYS = ["plain", "folder.with.dots/key", "\u043a\u043b\u044e\u0447", "deep/" * 30 + "x" * 120]


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> Shards:
    with tarfile.TarFile(path, "w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for key, members in samples.items():
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return Shards([path])


def judged(key: str, *candidates: Candidate) -> Judged:
    return Judged(Scored(key, key, list(candidates)), ["matched"] * len(candidates))


def test_names_of_any_form_stay_as_they_are(tmp_path: Path) -> None:
    samples = {key: {"png": picture(0), "txt": b"a web text"} for key in KEYS}
    shards = write_tar(tmp_path / "in.tar", samples)
    pictures = [judged(key, WEB, MADE) for key in KEYS]
    assert write_cleaned(tmp_path / "out.tar", shards, pictures) == len(KEYS)
    again = Shards([tmp_path / "out.tar"])
    assert [again.read(n).key for n in range(len(again))] == KEYS
    assert [again.read(n).uid for n in range(len(again))] == KEYS
    assert again.read(1).captions == [WEB.text, MADE.text]
    write_cleaned(tmp_path / "twice.tar", shards, pictures)
    assert (tmp_path / "twice.tar").read_bytes() == (tmp_path / "out.tar").read_bytes()


@pytest.mark.parametrize("original", [b"caf\xe9 \xff", b"\xef\xbb\xbfa\r\n", b"", None])
def test_the_original_caption_is_never_lost(tmp_path: Path, original: bytes | None) -> None:
    facts = {"uid": "u", "url": "http://x/\u00e9", "caption": "from json", "big": 1 << 70}
    members = {"jpg": picture(0), "json": json.dumps(facts).encode()}
    if original is not None:
        members["txt"] = original
    shards = write_tar(tmp_path / "in.tar", {"k": members})
    write_cleaned(tmp_path / "once.tar", shards, [judged("k", MADE)])
    # A second round cleans what the first one made, and still knows the first text.
    write_cleaned(tmp_path / "out.tar", Shards([tmp_path / "once.tar"]), [judged("k", MADE)])
    parts, problem = Shards([tmp_path / "out.tar"]).members(0)
    assert problem is None
    assert (parts["image"], parts["txt"]) == (picture(0), MADE.text.encode())
    found = json.loads(parts["json"])
    assert {**found, **facts} == found
    if original is None:
        assert not any(name.startswith("original_caption") for name in found)
    elif b"\xff" in original:
        assert base64.b64decode(found["original_caption_base64"]) == original
    else:
        assert found["original_caption"].encode() == original


def test_an_input_that_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    shards = write_tar(tmp_path / "in.tar", {"k": {"png": picture(0), "txt": b"a"}})
    with pytest.raises(ShardError, match="has no sample 'other'"):
        write_cleaned(tmp_path / "out.tar", shards, [judged("other", WEB)])
    content = bytearray((tmp_path / "in.tar").read_bytes())
    content[600] ^= 1
    (tmp_path / "in.tar").write_bytes(content)
    with pytest.raises(ShardError, match="sample 'k' changed while it was read"):
        write_cleaned(tmp_path / "out.tar", shards, [judged("k", WEB)])
