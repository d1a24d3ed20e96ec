"""Files with named tensors, foreign or ours: found, read without trust, written whole."""

import contextlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from engine import checkpoint
from engine.checkpoint import CheckpointError
from engine.durable import sync

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
CONFIG = "config.json"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def locate(place: str) -> Path:
    """A file or folder here, or the local copy of a hub repository's weights.

    A run folder becomes its newest good checkpoint.

    Raises:
        CheckpointError: nothing of that name, here or on the hub.
    """
    path = Path(place)
    if not path.exists():
        return _from_hub(place)
    if (path / "checkpoints").is_dir():
        found = checkpoint.newest_good(path / "checkpoints")
        if found is None:
            raise CheckpointError(f"{path}: no good checkpoint in it")
        return found
    return path


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is (or was) one of our checkpoints, good or damaged."""
    return (path / checkpoint.MANIFEST).is_file() or (path / checkpoint.STATE).is_file()


def read_tensors(path: Path, *, shapes_only: bool = False) -> dict[str, torch.Tensor]:
    """Named tensors of a file, of a folder with one, or of a checkpoint; executes nothing.

    Args:
        path: of any of them.
        shapes_only: read headers; tensors have the shapes of what is stored, and zeros in them or
            what is read when it is asked for. A checkpoint's files are not hashed then.

    Raises:
        CheckpointError: no weights, not readable, or more than tensors in it.
    """
    if is_checkpoint(path) and shapes_only:
        return read_tensors(path / "model.safetensors", shapes_only=True)
    if is_checkpoint(path):
        return checkpoint.read(path, only=("model",)).tensors.get("model", {})
    if path.is_dir():
        name = next((name for name in WEIGHT_FILES if (path / name).is_file()), None)
        if name is None:
            raise CheckpointError(f"{path}: no weights in it ({', '.join(WEIGHT_FILES)})")
        path = path / name
    if path.name.endswith(".index.json"):
        shards = (read_tensors(shard, shapes_only=shapes_only) for shard in _shards(path))
        return {name: tensor for shard in shards for name, tensor in shard.items()}
    try:
        if path.suffix == ".safetensors":
            return _shapes(path) if shapes_only else load_file(path)
        zipped = zipfile.is_zipfile(path)
        mapped = shapes_only and zipped
        if zipped and not shapes_only:
            _refuse_damaged(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except CheckpointError:
        raise
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not readable: {' '.join(str(error).split())}") from None
    except Exception:  # noqa: BLE001 - unpickling refuses hostile files in many ways
        raise CheckpointError(
            f"{path}: refused: damaged, no weights, or a pickle that holds more than tensors"
        ) from None
    for wrapper in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    named = isinstance(loaded, dict) and all(isinstance(v, torch.Tensor) for v in loaded.values())
    if not named or not loaded:
        raise CheckpointError(f"{path}: holds no named tensors")
    return dict(loaded)


def _refuse_damaged(path: Path) -> None:
    """Look at the checksums that PyTorch writes and does not read.

    Raises:
        CheckpointError: one is wrong while another is right: files may be written without them.
    """
    wrong = right = None
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            try:
                with file.open(member) as content:
                    while content.read(1 << 20):
                        pass
                right = member.filename
            except zipfile.BadZipFile:
                wrong = wrong or member.filename
    if wrong and right:
        raise CheckpointError(f"{path}: damaged: {wrong} in it is not what was written")


def _shapes(path: Path) -> dict[str, torch.Tensor]:
    """What the header says of each tensor; one zero stands for all of its values."""
    with safe_open(path, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def _is_complete(file: Path) -> bool:
    index = file.name.endswith(".index.json")
    return not index or all(shard.is_file() for shard in _shards(file))


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        shards = [index.parent / Path(name).name for name in names]
        if any(shard.name.endswith(".index.json") for shard in shards):
            raise ValueError(names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index}: no readable list of files") from None
    return shards


def cached(place: str) -> Path | None:
    """The folder of the hub's cache that holds a repository's weights; no network is asked."""
    from huggingface_hub import try_to_load_from_cache

    for file in WEIGHT_FILES:
        found = try_to_load_from_cache(place, file)
        if isinstance(found, str) and _is_complete(Path(found)):
            return Path(found).parent
    return None


def _from_hub(place: str) -> Path:
    """The folder of the hub's cache that holds a repository's weights; a copy there is enough."""
    if not HUB_NAME.fullmatch(place) or place.endswith(SUFFIXES):
        raise CheckpointError(f"{place}: no such file or folder")
    # Late: only hub names need it.
    from huggingface_hub import HfApi, hf_hub_download

    folder = cached(place)
    if folder is not None:
        return folder
    try:
        # Asked first: downloads of what is not there are tried again for a minute.
        there = {f.rfilename for f in HfApi().model_info(place, timeout=10).siblings or []}
        weights = next(file for file in WEIGHT_FILES if file in there)
        # The weights come last: a cache that has them has their configuration.
        if weights.endswith(".index.json"):
            for shard in _shards(Path(hf_hub_download(place, weights))):
                hf_hub_download(place, shard.name)
        if CONFIG in there:
            hf_hub_download(place, CONFIG)
        return Path(hf_hub_download(place, weights)).parent
    except StopIteration:
        problem = f"it holds none of {', '.join(WEIGHT_FILES)}"
    except Exception as error:  # noqa: BLE001 - the transport's errors change with its version
        problem = " ".join(str(error).split())[:120]
    raise CheckpointError(f"{place}: no such file or folder here, and not from the hub: {problem}")


@contextlib.contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A path beside `target` to write a file or folder at; it becomes `target` at the end.

    Raises:
        CheckpointError: the disk refuses; nothing partial is left.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            sync(path)
        os.rename(temporary, target)
        sync(target.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        # PyTorch's writer reports a full disk as a RuntimeError.
        problem = " ".join(str(error).split())
        raise CheckpointError(f"{target}: could not be written: {problem}") from None
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_original(target: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write the original's format: a pickle of `{'model': weights}`."""
    with written_whole(target) as temporary:
        torch.save({"model": weights}, temporary)
