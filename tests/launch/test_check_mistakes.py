"""`check.py` and settings that are mistakes: all at once, and nothing is said of what they hide."""

from pathlib import Path

import pytest

from engine.check.host import Host
from engine.config import ConfigError
from launch import check
from tests.check_runs import look, make_good, run
from tests.commands import call


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where nothing is wrong but the words."""
    return make_good(tmp_path)


@pytest.mark.parametrize(
    "word", ["warmup_steps=few", "warmup_steps=-3", "global_batch_size=0", "schedule=cosin"]
)
def test_a_mistake_brings_no_finding_about_the_default(place: Path, word: str) -> None:
    code, said = run(place, f"--train.{word}")
    (finding,) = said["findings"]
    assert (code, finding["name"]) == (2, "config")
    assert f"train.{word.partition('=')[0]}" in finding["line"]


@pytest.mark.parametrize("word", ["max_step=5000", "max_steps=5k"])
def test_nor_about_a_length_that_was_not_meant(place: Path, word: str) -> None:
    code, said = run(place, f"--train.{word}", "--train.warmup_steps=300")
    assert (code, [one["name"] for one in said["findings"]]) == (2, ["config"])


def test_mistakes_of_a_file_are_found_at_once(place: Path) -> None:
    path = place / "run.yaml"
    path.write_text(path.read_text() + "trian: {epochs: 3}\nsed: 4\nprecision: fp8\n")
    text = path.read_text().replace("precision: fp32\n", "", 1)
    path.write_text(text)
    code, said = run(place)
    lines = "\n".join(one["line"] for one in said["findings"] if one["severity"] == "error")
    assert code == 2
    assert "unknown key 'trian.epochs': did you mean 'train.epochs'?" in lines
    assert "unknown key 'sed': did you mean 'seed'?" in lines
    assert "precision: expected fp32 or bf16, got 'fp8'" in lines


def test_a_file_that_cannot_be_read_is_one_finding(place: Path) -> None:
    (place / "run.yaml").write_text("a: [")
    code, said = run(place)
    assert (code, [one["name"] for one in said["findings"]]) == (2, ["config"])


def test_no_words_at_all_name_no_data() -> None:
    ended = call(check.main)
    assert ended.code == 2
    assert "no data given" in ended.out


def test_weights_of_another_preset_end_with_what_to_type(place: Path) -> None:
    words = ["--model.preset", "mini", "--task", "caption"]
    found = look(place, *words, "--model.checkpoint", str(place / "tiny"))
    (line,) = [one.line for one in found if one.name == "checkpoint_other_network"]
    assert line.endswith("; give --model.preset tiny")


@pytest.mark.parametrize("port", ["", "any", "-1", "70000"])
def test_a_port_that_is_none_is_no_traceback(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", port)
    if not port:
        assert Host.read().port == 29500
        return
    with pytest.raises(ConfigError, match=f"MASTER_PORT is '{port}': set it to a free port"):
        Host.read()
