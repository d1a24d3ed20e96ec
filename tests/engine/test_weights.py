"""Weights of every origin: opened without trust, loaded name by name."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from blip_model import Blip
from engine import checkpoint
from engine.checkpoint import CheckpointError
from engine.config import ModelSection, RunConfig, to_dict
from engine.huggingface_folder import write_folder
from engine.weights import open_weights
from tests import golden_files

CAPTIONER = golden_files.read("caption").config
ROOT = Path(__file__).resolve().parents[2]


def golden_weights(name: str) -> dict[str, torch.Tensor]:
    return golden_files.read(name).under("weights.")


def pth(folder: Path, name: str) -> str:
    path = folder / f"{name}.pth"
    torch.save({"model": golden_weights(name), "epoch": 3}, path)
    return str(path)


def assert_holds(place: str, origin: str, golden: dict[str, torch.Tensor]) -> None:
    weights = open_weights(place)
    assert weights.origin == origin
    assert weights.tensors.keys() == golden.keys()
    assert all(torch.equal(weights.tensors[name], golden[name]) for name in golden)


def test_every_format_opens(tmp_path: Path) -> None:
    golden = golden_weights("pretrain")
    config = replace(golden_files.read("pretrain").config, dropout=0.3)
    assert_holds(pth(tmp_path, "pretrain"), "original", golden)
    save_file({n: t.clone() for n, t in golden.items()}, tmp_path / "bare.safetensors")
    assert_holds(str(tmp_path / "bare.safetensors"), "original", golden)
    state = {"network": vars(config)}
    run = tmp_path / "run"
    step = checkpoint.write(run / "checkpoints", 5, {"model": golden, "optimizer": {}}, state)
    assert_holds(str(run), "ours", golden)
    assert_holds(str(step), "ours", golden)
    assert open_weights(str(run)).config == config
    write_folder(tmp_path / "hf", golden, config, None)
    assert_holds(str(tmp_path / "hf"), "hf", golden)
    assert open_weights(str(tmp_path / "hf")).config == config


def test_a_captioner_that_was_tuned_is_not_mixed_with_its_old_retriever(tmp_path: Path) -> None:
    golden, config = golden_weights("pretrain"), golden_files.read("pretrain").config
    golden["image_queue"] = golden["image_queue"].T.contiguous().T
    write_folder(tmp_path / "hf", golden, config, None)
    theirs = transformers.BlipForConditionalGeneration.from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        theirs.vision_model.embeddings.class_embedding.add_(1.0)
    theirs.save_pretrained(tmp_path / "hf")
    message = "retrieval there holds another network, whose visual_encoder.cls_token differs"
    with pytest.raises(CheckpointError, match=message):
        open_weights(str(tmp_path / "hf"))
    assert open_weights(str(tmp_path / "hf" / "retrieval")).origin == "hf"


def test_transformers_own_folder_opens(tmp_path: Path) -> None:
    write_folder(tmp_path / "ours", golden_weights("caption"), CAPTIONER, None)
    captioner = transformers.BlipForConditionalGeneration.from_pretrained(tmp_path / "ours")
    captioner.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    assert_holds(str(tmp_path / "theirs"), "hf", golden_weights("caption"))
    assert open_weights(str(tmp_path / "theirs")).config.text_heads == 2


def test_a_run_without_saved_sizes_tells_them_by_its_settings(tmp_path: Path) -> None:
    run = RunConfig(model=ModelSection(preset="tiny", dropout=0.2))
    model = Blip(run.model.network())
    state = {"config": to_dict(run)}
    path = checkpoint.write(tmp_path, 1, {"model": model.state_dict()}, state)
    assert open_weights(str(path)).config == run.model.network()


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path) -> None:
    golden = golden_weights("filter")
    for step in (1, 2):
        path = checkpoint.write(tmp_path / "checkpoints", step, {"model": golden}, {})
    with (path / "model.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"x")
    assert_holds(str(tmp_path), "ours", golden)
    with pytest.raises(CheckpointError, match="model.safetensors is damaged"):
        open_weights(str(path))
    (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="manifest.json is missing"):
        open_weights(str(path))


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.canary,))


def test_a_changed_byte_in_a_file_of_pytorchs_is_found(tmp_path: Path) -> None:
    path = Path(pth(tmp_path, "pretrain"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pretrain\.pth: damaged: pretrain/data/\d+ in it"):
        open_weights(str(path))


def test_a_file_without_checksums_opens(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = pth(tmp_path, "pretrain")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_holds(path, "original", golden_weights("pretrain"))


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Bomb(canary)))  # noqa: S301 - shows that the bomb is a live one
    canary.unlink()
    torch.save({"model": golden_weights("filter"), "extra": Bomb(canary)}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(canary), protocol=2))
    (tmp_path / "folder").mkdir()
    (tmp_path / "zip.pth").rename(tmp_path / "folder" / "pytorch_model.bin")
    for name in ("plain.pth", "folder"):
        with pytest.raises(CheckpointError, match="refused: damaged, no weights, or") as problem:
            open_weights(str(tmp_path / name))
        assert "\n" not in str(problem.value)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.pth", b"not weights", "refused"),
        ("empty.pth", b"", "refused"),
        ("text.safetensors", b"not weights", "not readable"),
        ("empty.safetensors", b"", "not readable"),
    ],
)
def test_other_files_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as problem:
        open_weights(str(tmp_path / name))
    assert "\n" not in str(problem.value)


def test_other_contents_are_one_line(tmp_path: Path) -> None:
    torch.save({"model": {"weight": 3}}, tmp_path / "numbers.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pth")
    again = {"weight_map": {"a": "model.safetensors.index.json"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(again))
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name, message in [
        ("numbers.pth", "no named tensors"),
        ("list.pth", "no named tensors"),
        ("other.pth", "lacks "),
        ("model.safetensors.index.json", "no readable list of files"),
        ("empty", "no weights in it"),
        ("run", "no good checkpoint in it"),
        ("missing.pth", "no such file or folder"),
        ("missing/folder/deep", "no such file or folder"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            open_weights(str(tmp_path / name))


def test_another_models_configuration_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "hf", golden_weights("caption"), CAPTIONER, None)
    path = tmp_path / "hf" / "config.json"
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, "model_type": "blip-2"}))
    with pytest.raises(CheckpointError, match="model_type is 'blip-2'"):
        open_weights(str(tmp_path / "hf"))
    path.write_text("{}")
    with pytest.raises(CheckpointError, match="no usable BLIP configuration"):
        open_weights(str(tmp_path / "hf"))
    tree["text_config"]["intermediate_size"] = 65
    path.write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match=r"is \[64\], not \[65\]"):
        open_weights(str(tmp_path / "hf"))


@pytest.mark.parametrize(
    ("tower", "name", "value", "said"),
    [
        ("vision_config", "hidden_act", "quick_gelu", "vision_config.hidden_act is 'quick_gelu'"),
        ("text_config", "hidden_act", "relu", "text_config.hidden_act is 'relu'"),
        ("vision_config", "layer_norm_eps", 0.1, "vision_config.layer_norm_eps is 0.1: must be"),
        ("text_config", "layer_norm_eps", "x", "a value is of the wrong kind"),
        ("vision_config", "num_attention_heads", 0, "not a multiple of vision_heads 0"),
    ],
)
def test_layers_that_are_computed_otherwise_are_refused(
    tower: str, name: str, value: object, said: str, tmp_path: Path
) -> None:
    write_folder(tmp_path / "hf", golden_weights("caption"), CAPTIONER, None)
    path = tmp_path / "hf" / "config.json"
    tree = json.loads(path.read_text())
    tree[tower][name] = value
    path.write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match=f"config.json: no usable BLIP config.*{said}"):
        open_weights(str(tmp_path / "hf"))


def test_a_hub_name_opens_from_the_cache_without_a_network(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--some--blip" / "snapshots" / "abc"
    write_folder(snapshot, golden_weights("caption"), CAPTIONER, None)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    program = """
from engine.weights import open_weights
print(open_weights("some/blip").config.text_layers)
try: open_weights("some/other")
except ValueError as error: print(error)
"""
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    layers, problem = done.stdout.splitlines()
    assert layers == "8"
    assert problem.startswith("some/other: no such file or folder here, and not from the hub:")
