"""Cleaned shards of odd names and odd captions: what was there is still there."""

import base64
import io
import json
import tarfile
from pathlib import Path

import pytest
import torch

from blip_model import Blip
from engine.capfilt.candidates import CaptionAndScore, ShardTexts, _stored
from engine.capfilt.cleaned import write_cleaned
from engine.capfilt.config import CapFiltConfig, CaptionSection, RuleSection
from engine.capfilt.folder import OutputFolder
from engine.capfilt.ledger import Ledger
from engine.capfilt.pictures import Bad, Picture
from engine.capfilt.rule import Candidate
from engine.capfilt.shard_job import ShardJob
from engine.capfilt.table import Judged, Scored
from engine.data.index import ShardError, build_index
from engine.data.shards import Shards
from engine.data.tokenizer import open_tokenizer
from engine.inference import LoadedBlip
from tests.shards import picture
from tests.tiny import tiny_config

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


def test_what_a_captioner_wrote_stays_so_when_it_is_cleaned_again(tmp_path: Path) -> None:
    shards = write_tar(tmp_path / "in.tar", {"k": {"png": picture(0), "txt": b"a web text"}})
    write_cleaned(tmp_path / "once.tar", shards, [judged("k", MADE, WEB)])
    torch.manual_seed(0)
    blip = LoadedBlip(Blip(tiny_config()), open_tokenizer(None))
    config = CapFiltConfig(device="cpu", caption=CaptionSection(max_length=7))
    clean, once = CaptionAndScore(config, blip, blip), Shards([tmp_path / "once.tar"])
    (found,) = clean("once", once, lambda done: None).pictures
    texts = [(one.source, one.text) for one in found.candidates]
    assert texts[:2] == [("synthetic", MADE.text), ("web", WEB.text)]
    assert [source for source, _ in texts[2:]] == ["synthetic"]
    write_cleaned(tmp_path / "twice.tar", once, [judged("k", *found.candidates)])
    assert Shards([tmp_path / "twice.tar"]).read(0).synthetic == (True, False, True)
    assert shards.read(0).synthetic == ()


@pytest.mark.parametrize(
    ("sources", "synthetic"),
    [
        (["synthetic"], (True,)),
        ([7, None, "synthetic", "web"], (False, False, True, False)),
        ("synthetic", ()),
        (None, ()),
    ],
)
def test_sources_of_strangers_are_taken_as_far_as_they_go(
    tmp_path: Path, sources: object, synthetic: tuple[bool, ...]
) -> None:
    facts = {"capfilt": {"captions": ["a", "b"], "sources": sources}}
    members = {"png": picture(0), "json": json.dumps(facts).encode()}
    raw = write_tar(tmp_path / "in.tar", {"k": members}).read(0)
    assert (raw.captions, raw.synthetic) == (["a", "b"], synthetic)
    told = _stored(Picture("k", "k", raw.captions, raw.synthetic, {}))
    first = "synthetic" if synthetic[:1] == (True,) else "web"
    assert told == [(first, "a"), ("web", "b")]


def quarantined(root: Path, shard: Path, bad: list[Bad]) -> dict[str, str]:
    """The one line about a shard with one picture that can be used."""
    folder = OutputFolder(root)
    folder.make()
    found = ShardTexts([Scored("k", "k", [WEB])], bad)
    job = ShardJob(folder, Ledger(folder, "run"), lambda *_: found, RuleSection(), None)
    with folder.desk("in") as desk:
        job.publish(job.draft(job.score("in", shard, lambda done: None), desk))
    (line,) = (folder.quarantine / "in.jsonl").read_text().splitlines()
    return json.loads(line)


def test_names_without_measure_have_a_line_of_the_quarantine(tmp_path: Path) -> None:
    """And a run from the table of such a run writes the same line."""
    shard = tmp_path / "in.tar"
    write_tar(shard, {"k": {"png": picture(0), "txt": b"a"}, "x" * 60_000: {"gif": b"GIF"}})
    bad = [Bad(one.key, one.uid, one.reason) for one in build_index(shard).unread]
    row = quarantined(tmp_path / "out", shard, bad)
    assert row["key"] == row["uid"] == "x" * 999 + "…"
    again = [Bad(row["key"], row["uid"], row["reason"])]
    assert quarantined(tmp_path / "again", shard, again) == row
