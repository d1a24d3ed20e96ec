"""Checkpoint files: what is written comes back, and nothing damaged is ever loaded."""

import json
import logging
import random
import shutil
from pathlib import Path

import pytest
import torch
import xxhash

from engine import checkpoint
from engine.checkpoint import CheckpointError
from engine.manifest import seal


def tensors(value: float = 1.0, size: int = 40) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "model": {
            "weight": torch.full((size, 3), value),
            "temp": torch.tensor(value),
            "image_queue": torch.zeros(16, 0),
            "queue_ptr": torch.zeros(1, dtype=torch.long),
        },
        "optimizer": {"exp_avg.weight": torch.full((size, 3), -value)},
    }


def write(folder: Path, step: int) -> Path:
    return checkpoint.write(folder, step, tensors(step), {"samples_seen": 8 * step})


def flip(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(bytes(data))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "checkpoints", 7)
    loaded = checkpoint.read(path)
    assert path.name == "step_00000007"
    assert loaded.step == 7
    assert loaded.state == {"samples_seen": 56, "step": 7}
    for stem, group in tensors(7).items():
        assert loaded.tensors[stem].keys() == group.keys()
        for name, tensor in group.items():
            assert torch.equal(loaded.tensors[stem][name], tensor)
            assert loaded.tensors[stem][name].dtype == tensor.dtype


def test_facts_of_another_step_do_not_say_the_step(tmp_path: Path) -> None:
    loaded = checkpoint.read(checkpoint.write(tmp_path, 2, tensors(), {"step": 9}))
    assert (loaded.step, loaded.state) == (2, {"step": 2})


def test_only_the_files_asked_for_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    flip(path / "optimizer.safetensors", 300, 0)
    assert checkpoint.read(path, only=("model",)).tensors.keys() == {"model"}
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors is damaged"):
        checkpoint.read(path)
    flip(path / "state.json", 3, 0)
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        checkpoint.read(path, only=("model",))


def test_tied_and_strided_tensors_are_stored_whole(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    group = {"a": whole, "b": whole, "part": whole[1], "turned": whole.t()}
    loaded = checkpoint.read(checkpoint.write(tmp_path, 0, {"model": group}, {}))
    for name, tensor in group.items():
        assert torch.equal(loaded.tensors["model"][name], tensor)


def test_every_flipped_bit_is_noticed_and_its_file_named(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    files = sorted(path.iterdir())
    assert [f.name for f in files] == [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    chance = random.Random(0)
    for number in range(200):
        file = files[number % len(files)]
        position, bit = chance.randrange(file.stat().st_size), chance.randrange(8)
        flip(file, position, bit)
        with pytest.raises(CheckpointError) as problem:
            checkpoint.read(path)
        assert f"{file.name} is damaged" in str(problem.value), (file.name, position, bit)
        flip(file, position, bit)
    checkpoint.read(path)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_a_missing_or_cut_file_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, 3)
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=name):
        checkpoint.read(path)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        checkpoint.read(path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"xxh3_128": ["state.json"]}', "[" * 100_000])
def test_a_strange_manifest_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, 3)
    (path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        checkpoint.read(path)


def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    path, other = write(tmp_path, 3), write(tmp_path, 4)
    hashes, others = (
        json.loads((one / "manifest.json").read_text())["xxh3_128"] for one in (path, other)
    )
    hashes[f"../{other.name}/model.safetensors"] = others["model.safetensors"]
    own = xxhash.xxh3_128_hexdigest(json.dumps(hashes).encode())
    (path / "manifest.json").write_text(json.dumps({"xxh3_128": hashes, "manifest": own}, indent=1))
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        checkpoint.read(path)


def test_a_file_that_the_manifest_does_not_list_is_not_loaded(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    shutil.copy(path / "model.safetensors", path / "planted.safetensors")
    assert checkpoint.read(path).tensors.keys() == {"model", "optimizer"}


def test_the_newest_good_one_is_found_and_the_fall_back_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = write(tmp_path, 10), write(tmp_path, 9_000_000_000)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest_good(tmp_path) == newer
    assert not caplog.records
    flip(newer / "model.safetensors", 500, 3)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest_good(tmp_path) == older
    (record,) = caplog.records
    assert "model.safetensors is damaged" in record.message
    assert "using step_00000010" in record.message
    flip(older / "state.json", 3, 3)
    assert checkpoint.newest_good(tmp_path) is None
    assert checkpoint.newest_good(tmp_path / "nowhere") is None


def test_steps_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    for step in (20, 3, 100_000_000):
        write(tmp_path, step)
    (tmp_path / "step_5").mkdir()
    (tmp_path / ".step_00000009.1.tmp").mkdir()
    names = [path.name for path in checkpoint.steps(tmp_path)]
    assert names == ["step_00000003", "step_00000020", "step_100000000"]


def test_the_same_step_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 4)
    path = checkpoint.write(tmp_path, 4, tensors(9.0), {"again": True})
    assert checkpoint.read(path).state["again"]
    assert checkpoint.read(path).tensors["model"]["temp"] == 9.0
    assert [p.name for p in tmp_path.iterdir() if p.name != ".lock"] == ["step_00000004"]


def test_a_replacement_cut_short_leaves_the_replaced_one_loadable(tmp_path: Path) -> None:
    path = write(tmp_path, 4)
    path.rename(tmp_path / "step_00000004.replaced")
    found = checkpoint.newest_good(tmp_path)
    assert checkpoint.read(found).step == 4
    write(tmp_path, 5)
    assert checkpoint.read(found).step == 4
    write(tmp_path, 4)
    write(tmp_path, 6)
    assert not found.exists()


def test_a_checkpoint_is_taken_before_the_one_that_it_replaces(tmp_path: Path) -> None:
    """Cut short when both are there, and whole."""
    older = write(tmp_path, 4).rename(tmp_path / "older")
    path = write(tmp_path, 4)
    replaced = older.rename(tmp_path / "step_00000004.replaced")
    assert checkpoint.steps(tmp_path) == [replaced, path]
    assert checkpoint.newest_good(tmp_path) == path


def test_prune_keeps_the_last_and_every_nth(tmp_path: Path) -> None:
    for step in range(1, 11):
        write(tmp_path, step)
    checkpoint.prune(tmp_path, keep_last=2, keep_every=4)
    kept = [checkpoint.read(path).step for path in checkpoint.steps(tmp_path)]
    assert kept == [4, 8, 9, 10]
    checkpoint.prune(tmp_path, keep_last=1, keep_every=0)
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step_00000010"]
    with pytest.raises(ValueError, match="keep_last is 0"):
        checkpoint.prune(tmp_path, keep_last=0, keep_every=0)


def test_prune_never_deletes_the_only_good_one(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        path = write(tmp_path, step)
        if step > 1:
            flip(path / "model.safetensors", 400, 1)
    checkpoint.prune(tmp_path, keep_last=1, keep_every=2)
    assert checkpoint.newest_good(tmp_path).name == "step_00000001"


def test_prune_looks_for_a_good_one_among_all_that_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        path = write(tmp_path, step)
    flip(path / "model.safetensors", 400, 1)
    checkpoint.prune(tmp_path, keep_last=2, keep_every=0)
    assert [checkpoint.step_of(path) for path in checkpoint.steps(tmp_path)] == [3, 4]


def test_facts_that_are_no_json_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        checkpoint.write(tmp_path, 1, tensors(), {"folder": tmp_path})
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_sealed_folder_without_a_step_is_no_checkpoint(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    state = json.loads((path / "state.json").read_text())
    del state["step"]
    (path / "state.json").write_text(json.dumps(state))
    (path / "manifest.json").unlink()
    seal(path)
    with pytest.raises(CheckpointError, match="holds what no checkpoint holds"):
        checkpoint.read(path)


def test_keys_that_differ_are_named_both_ways() -> None:
    checkpoint.check_keys({"a"}, {"a"}, "the file")
    with pytest.raises(CheckpointError) as problem:
        checkpoint.check_keys({"a", "b1", "b2", "b3", "b4"}, {"a", "z"}, "the file")
    assert str(problem.value) == (
        "the file lacks 4 tensors: b1, b2, b3, ...; has unexpected 1 tensors: z"
    )
