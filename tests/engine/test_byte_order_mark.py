"""Text files that begin with a byte order mark, as editors of some systems write them."""

import codecs
import json
from pathlib import Path

import pytest

from engine.bulk.config import EmbedConfig
from engine.bulk.embed import _given
from engine.collect.web.lists import Lists
from engine.collect.web.purge import _read_uids
from engine.config import ConfigError, RunConfig
from engine.data.json_lists import read_json, read_list
from engine.data.open_source import open_source
from engine.data.questions import read_answer_list
from engine.training.deepspeed_settings import deepspeed_config
from launch.cli import parse

ROWS = [{"image": "é.png", "caption": "a fox"}, {"image": "b.png", "caption": "a dog"}]


def marked(path: Path, text: str) -> Path:
    path.write_bytes(codecs.BOM_UTF8 + text.encode())
    return path


@pytest.mark.parametrize("suffix", [".json", ".csv", ".tsv"])
def test_lists_of_pairs(tmp_path: Path, suffix: str) -> None:
    lines = ["image,caption", *(f"{row['image']},{row['caption']}" for row in ROWS)]
    table = "\n".join(lines).replace(",", "\t" if suffix == ".tsv" else ",")
    text = json.dumps(ROWS) if suffix == ".json" else table
    source = open_source(str(marked(tmp_path / f"x{suffix}", text)))
    found = [source.read(number) for number in range(2)]
    assert [(raw.key, raw.captions) for raw in found] == [
        ("é.png", ["a fox"]),
        ("b.png", ["a dog"]),
    ]


def test_other_lists(tmp_path: Path) -> None:
    lines = "\n".join(map(json.dumps, ROWS))
    assert read_json(marked(tmp_path / "x.jsonl", lines)) == ROWS
    assert read_list(marked(tmp_path / "x.json", json.dumps(ROWS)), "rows") == ROWS
    assert read_answer_list(marked(tmp_path / "a.json", '["yes", "no"]')) == ["yes", "no"]
    with pytest.raises(ConfigError, match="not readable as json: line 2: "):
        read_json(marked(tmp_path / "x.jsonl", "{}\n\ufeff{}"))


def test_lists_of_urls(tmp_path: Path) -> None:
    for suffix, text in (
        (".csv", "url,text\nu,a fox\n"),
        (".jsonl", '{"url": "u", "text": "a fox"}'),
    ):
        lists = Lists([str(marked(tmp_path / f"x{suffix}", text))])
        assert [(row.url, row.caption) for row in lists.rows()] == [("u", "a fox")]


def test_texts_and_uids_a_line(tmp_path: Path) -> None:
    path = marked(tmp_path / "x.txt", "a fox\n\na dog\n")
    assert _given(str(path)) == ["a fox", "a dog"]
    assert _read_uids(path) == {"a fox", "a dog"}


def test_settings(tmp_path: Path) -> None:
    path = marked(tmp_path / "x.yaml", "what: texts\nmodel: m\ntexts: [a]\noutput: o.npy\n")
    given = {"description": "", "examples": ""}
    assert parse(EmbedConfig, ["--config", str(path)], **given).texts == ["a"]
    path = marked(tmp_path / "x.json", '{"wall_clock_breakdown": true}')
    config = parse(RunConfig, ["--deepspeed.config", str(path)], **given)
    assert deepspeed_config(config, 8, 1)["wall_clock_breakdown"] is True
