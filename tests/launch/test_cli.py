"""Flags and files become a run; a mistake becomes one line that names the nearest key."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from engine.collect.web.config import WebConfig
from engine.config import ConfigError, RunConfig, to_dict
from launch.cli import parse, run_main
from tests.ranks import ROOT


def run_of(*words: str) -> RunConfig:
    """The run that these command-line words describe."""
    return parse(RunConfig, words, description="Pretrain.", examples="  none")


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: 5\nmodel: {preset: tiny, dropout: 0.2}\ntrain: {epochs: 3}\n")
    config = run_of("--config", str(path), "--model.dropout", "0.0", "--train.betas", "[0.8, 0.9]")
    assert (config.seed, config.train.epochs, config.train.betas) == (5, 3, (0.8, 0.9))
    assert config.model.network().dropout == 0.0


def test_the_saved_run_repeats_itself(tmp_path: Path) -> None:
    config = run_of("--model.preset", "small", "--data.train", "[a, b]", "--train.max_steps", "7")
    config.save(tmp_path / "config.yaml")
    assert run_of("--config", str(tmp_path / "config.yaml")) == config


def test_the_launchers_own_flag_is_ignored() -> None:
    assert run_of("--local_rank=1", "--seed", "2").seed == 2


def test_the_largest_seed_is_taken() -> None:
    assert run_of("--seed", str(2**64 - 1)).seed == 2**64 - 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--modle.preset", "x"], "did you mean 'model.preset'"),
        (["--train.lr", "1"], "did you mean 'train.learning_rate'"),
        (["--train.global_batch", "8"], "did you mean 'train.global_batch_size'"),
        (["--outputdir", "x"], "did you mean 'output_dir'"),
        (["--zzzz", "x"], "--help"),
        (["--seed", "abc"], "seed: expected int, got 'abc'"),
        (["--model.dropout", "x"], "model.dropout: expected float or null, got 'x'"),
        (["--precision", "fp16"], "precision: expected"),
        (["--model.preset", "huge"], "unknown preset 'huge'"),
        (["--model.image_size", "100"], "not a multiple of patch_size"),
        (["--seed", str(2**64)], f"seed is {2**64}: must be at least 0 and at most 1.84467e+19"),
        (["--deepspeed.stage", "9"], "deepspeed.stage is 9"),
        (["--train.global_batch_size", "100", "--train.negative_group_size", "64"], "multiple"),
        (["--config", "no/such.yaml"], "no/such.yaml: no such file"),
        (["stray"], "stray"),
    ],
)
def test_a_mistake_is_one_clear_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_of(*words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n  presset: tiny\n", "did you mean 'model.preset'"),
        ("trian: {epochs: 3}\n", "did you mean 'train.epochs'"),
        ("output_dirr: x\n", "did you mean 'output_dir'"),
        ("- a\n- b\n", "holds no settings"),
        ("a: [\n", "not readable as YAML"),
        ("data: &d\n  train: [*d]\n", "not readable as YAML: maximum recursion"),
        ("data: {train: &d [*d]}\n", "not readable as YAML: maximum recursion"),
        (
            "data: {curriculum: [{until_step: 1,\nuntil_step: 2}]}",
            "until_step stands in lines 1 an",
        ),
        ("!!python/object/apply:os.system ['true']\n", "not readable as YAML"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        run_of("--config", str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "class_path: hostile.X",
        "model: {class_path: hostile.X}",
        "model: {class_path: hostile.X, init_args: {}}",
        "model: hostile.X",
        "seed: {class_path: hostile.X}",
        "seed: hostile.X",
        "data: {curriculum: [{class_path: hostile.X}]}",
        "data: {curriculum: [{until_step: {class_path: hostile.X}}]}",
        "data: {curriculum: [hostile.X]}",
        "data: {curriculum: hostile.X}",
        "data: {weights: [hostile.X]}",
        "data: {eval: [{class_path: hostile.X}]}",
    ],
)
def test_a_strangers_file_runs_no_code(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser imports what is called a class before it looks at what it is."""
    ran = tmp_path / "ran"
    (tmp_path / "hostile.py").write_text(f"open({str(ran)!r}, 'w')\nclass X: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hostile", raising=False)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError):
        parse(RunConfig, ["--config", str(tmp_path / "config.yaml")], description="", examples="")
    assert not ran.exists()


def test_null_is_a_value_where_the_help_says_so() -> None:
    words = ["--screen.near", "null", "--screen.max_repeats", "null"]
    screen = parse(WebConfig, words, description="", examples="").screen
    assert (screen.near, screen.max_repeats) == (None, None)


def test_print_config_shows_the_resolved_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_of("--seed", "9", "--print_config")
    assert stopped.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown == to_dict(run_of("--seed", "9"))


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_full_memory_exits_with_2_and_says_what_to_change(
    capsys: pytest.CaptureFixture[str], device: str
) -> None:
    said = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB."

    def main() -> None:
        if device == "cpu":
            torch.empty(1 << 60)
        raise torch.OutOfMemoryError(said)

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    assert ended.value.code == 2
    line = capsys.readouterr().err
    start = {"cuda": "CUDA out of memory", "cpu": "out of memory"}[device]
    assert line.startswith(f"error: {start}: take smaller batches")
    assert line.count("\n") == 1


def test_bad_input_exits_with_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise ConfigError("the file is\nmissing")

    with pytest.raises(SystemExit) as stopped:
        run_main(main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: the file is missing\n"


def test_help_and_mistakes_wait_for_no_torch() -> None:
    mains = ", ".join(f"launch.{path.stem}" for path in (ROOT / "launch").glob("[a-z]*.py"))
    code = f"import sys, {mains}; from launch.cli import parse; from engine.config import RunConfig"
    code += "; parse(RunConfig, [], description='', examples='')"
    code += "; print(sorted({'torch', 'deepspeed', 'transformers'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


def test_a_saved_run_is_whole_at_every_moment(tmp_path: Path) -> None:
    path, seen = tmp_path / "config.yaml", tmp_path / "seen_before"
    RunConfig(seed=1).save(path)
    os.link(path, seen)
    RunConfig(seed=2).save(path)
    assert ("seed: 1" in seen.read_text(), "seed: 2" in path.read_text()) == (True, True)
    assert {found.name for found in tmp_path.iterdir()} == {path.name, seen.name}


def test_flags_override_a_file_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("output_dir: here\nseed: 3\nmodel:\n  dropout: 0.3\n")
    for words in (["--config", str(path)], [f"--config={path}"]):
        config = run_of("--seed", "7", *words, "--model.dropout", "0.1")
        assert (config.seed, config.model.dropout) == (7, 0.1)
    with pytest.raises(ConfigError, match="--config"):
        run_of("--seed", "7", "--config")


@pytest.mark.parametrize(
    ("main", "said"),
    [
        ("lambda: print('x' * 100)", "No space left on device"),
        ("lambda: open('n' * 300)", f"{'n' * 80}: File name too long"),
    ],
)
def test_what_the_system_refuses_is_one_line(main: str, said: str) -> None:
    program = f"from launch.cli import run_main; run_main({main})"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (ended.returncode, ended.stderr) == (2, f"error: {said}\n")
