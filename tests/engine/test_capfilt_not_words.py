"""Texts that no person writes are dropped whatever their scores are; all others are left alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.capfilt.config import CapFiltConfig, RuleSection
from engine.capfilt.folder import IDENTITY
from engine.capfilt.identity import hash_identity, of_settings, refuse_other
from engine.capfilt.not_words import is_words
from engine.capfilt.rule import Candidate, judge
from engine.config import ConfigError
from engine.data.tokenizer import Tokenizer, open_tokenizer

# Written by captioners that were tuned on 206 clean pairs, as the ablation's tables hold them.
BROKEN = [
    "##palming dark skin tone",
    "deaf woman medium [unused114] dark skin tone",
    "##\u3093 diamond",
    "[unused262]",
    "\u201d",
    "\uff0e",
    "skin " * 15,
    "light skin light skin light skin light skin",
]
SAID = [
    "woman and man holding hands medium - light skin tone medium - light skin tone",
    "mer hands medium - light skin tone",
    "a man and a woman and a dog and a cat and a bird",
    "no no no",
    "keycap: #",
    "a jersey with #23 on it",
    "1",
    "\u72ac",
]


@pytest.mark.parametrize("text", BROKEN)
def test_pieces_and_endless_words_are_none(text: str) -> None:
    assert not is_words(text)
    candidates = [Candidate(source, text, 0.99, 0.5) for source in ("web", "synthetic")]
    assert judge(candidates, RuleSection()) == ["matched", "not_words"]
    # The paper's rule to the letter, from scores alone.
    assert judge(candidates, RuleSection(drop_not_words=False)) == ["matched", "matched"]
    first = RuleSection(best_synthetic=1, drop_duplicates=True)
    rest = [*candidates[1:], Candidate("synthetic", "a dog", 0.6, 0.1)]
    assert judge(rest, first) == ["not_words", "matched"]


@pytest.mark.parametrize("text", SAID)
def test_what_people_write_is_left_to_the_scores(text: str) -> None:
    assert is_words(text)
    assert judge([Candidate("synthetic", text, 0.4, 0.5)], RuleSection()) == ["unmatched"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(None)


def test_special_tokens_are_never_decoded_and_what_is_decoded_is_known(
    tokenizer: Tokenizer,
) -> None:
    words = tokenizer.path.read_text(encoding="utf-8").splitlines()
    number = {word: place for place, word in enumerate(words)}
    special = [number[f"[{name}]"] for name in ("PAD", "UNK", "CLS", "MASK")]
    special += [tokenizer.bos_token_id, tokenizer.enc_token_id]
    ids = torch.tensor([[*special, number["dog"], *special, number["[SEP]"], number["cat"]]])
    assert tokenizer.decode(ids) == ["dog"]
    # Whatever a captioner draws first, a text that shows a piece is told.
    alone = tokenizer.decode(torch.arange(len(words))[:, None])
    shown = [text for text in alone if "##" in text or "[unused" in text]
    assert len(shown) > 6000
    assert not [text for text in shown if is_words(text)]


def test_a_run_from_before_the_rule_goes_on_where_it_is_off(tmp_path: Path) -> None:
    config = CapFiltConfig(output_dir=str(tmp_path))
    before = of_settings(config)
    del before["rule"]["drop_not_words"]
    (tmp_path / IDENTITY).write_text(json.dumps(before))
    off = replace(config, rule=replace(config.rule, drop_not_words=False))
    assert hash_identity(of_settings(off)) == hash_identity(before)
    refuse_other(off, of_settings(off))
    with pytest.raises(ConfigError, match="rule.drop_not_words None -> True"):
        refuse_other(config, of_settings(config))
