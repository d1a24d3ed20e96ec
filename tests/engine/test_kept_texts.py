"""A cleaned set as pairs: one a kept text, of the right picture, in the right order."""

from pathlib import Path

import pytest

from engine.capfilt.cleaned import write_cleaned
from engine.capfilt.config import RuleSection
from engine.capfilt.rule import Candidate
from engine.capfilt.table import Scored, judge_all, to_bytes
from engine.config import ConfigError
from engine.data.kept_texts import KeptTexts
from engine.data.open_source import open_source
from engine.data.shards import Shards
from tests.shards import picture, write_shards

# Matching scores of a picture's web text and of its two synthetic ones.
SCORES = [
    [(0.9, 0.1, 0.8), (0.1, 0.1, 0.1), (0.2, 0.7, 0.1), (0.6, 0.6, 0.6)],
    [(0.1, 0.0, 0.3), (0.0, 0.0, 0.9)],
]
KEPT = [
    ("00000", ["a red square number 0", "second of 0"]),
    ("00002", ["first of 2"]),
    ("00003", ["a yellow square number 3", "first of 3", "second of 3"]),
    ("00005", ["second of 5"]),
]


@pytest.fixture
def cleaned(tmp_path: Path) -> Path:
    """Two shards of four and two pictures, as captioning and filtering leaves them."""
    write_shards(tmp_path / "web", 6, 4)
    for name in ("shards", "table"):
        (tmp_path / "out" / name).mkdir(parents=True)
    for shard, scores in zip(sorted((tmp_path / "web").glob("*.tar")), SCORES, strict=True):
        source, scored = Shards([shard]), []
        for number, values in enumerate(scores):
            raw = source.read(number)
            made = [f"{word} of {int(raw.key)}" for word in ("first", "second")]
            texts = [("web", raw.captions[0])] + [("synthetic", text) for text in made]
            candidates = [
                Candidate(*text, value, 0.0) for text, value in zip(texts, values, strict=True)
            ]
            scored.append(Scored(raw.key, raw.uid, candidates))
        judged = judge_all(scored, RuleSection())
        write_cleaned(tmp_path / "out" / "shards" / shard.name, source, judged)
        (tmp_path / "out" / "table" / f"{shard.stem}.parquet").write_bytes(to_bytes(judged))
    return tmp_path / "out"


def test_every_kept_text_is_a_pair(cleaned: Path) -> None:
    pairs = open_source(str(cleaned))
    assert isinstance(pairs, KeptTexts)
    assert (len(pairs), pairs.lengths) == (7, [6, 1])
    read = [pairs.read(number) for number in range(len(pairs))]
    expected = [(key, [text]) for key, texts in KEPT for text in texts]
    assert [(one.key, one.captions) for one in read] == expected
    for one in read:
        assert one.synthetic == (" of " in one.captions[0],)
        assert one.image == picture(int(one.key))
        assert (one.uid, one.problem) == (f"uid-{int(one.key)}", None)


def test_it_joins_other_pairs_and_is_told_from_its_shards(cleaned: Path, tmp_path: Path) -> None:
    clean = write_shards(tmp_path / "clean", 3)
    both = open_source([str(cleaned), str(clean)])
    assert len(both) == 10
    assert sorted(both.lengths) == [1, 3, 6]
    plain = open_source(str(cleaned / "shards"))
    assert len(plain) == 4
    assert plain.read(2).captions == KEPT[2][1]
    assert plain.fingerprint != open_source(str(cleaned)).fingerprint


def test_damage_is_named(cleaned: Path) -> None:
    first, second = sorted((cleaned / "table").iterdir())
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(ConfigError, match="has 3 pictures but its table keeps 1"):
        open_source(str(cleaned))
    first.write_bytes(content[:-20])
    with pytest.raises(ConfigError, match="not a readable table"):
        open_source(str(cleaned))
    first.unlink()
    with pytest.raises(ConfigError, match="not a readable table"):
        open_source(str(cleaned))


def test_a_set_that_keeps_nothing_says_what_to_do(
    cleaned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (*(cleaned / "table").iterdir(), *(cleaned / "shards").iterdir()):
        path.unlink()
    with pytest.raises(ConfigError, match="no picture-caption pair in it; .* kept not one text"):
        open_source(str(cleaned))
    assert not caplog.records
    # With others it is said, and they are used.
    assert len(open_source([str(cleaned), str(write_shards(tmp_path / "clean", 3))])) == 3
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{cleaned}: captioning and filtering kept not one text there: lower ")
    assert said.endswith("the other pairs alone are used")
