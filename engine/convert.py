"""Weights from one format into another, whole or not at all."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from blip_model.convert.original import to_original
from blip_model.convert.shapes import with_image_size
from engine import checkpoint
from engine.config import ConfigError
from engine.huggingface_folder import write_folder
from engine.model_card import facts_of
from engine.weight_files import write_original
from engine.weights import Origin, Weights, open_weights

KINDS = {"ours": "a checkpoint of ours", "original": "the original's", "hf": "Hugging Face's"}


def convert(
    place: str,
    output: str,
    *,
    origin: Origin,
    target: Origin,
    image_size: int | None = None,
    vocabulary: str | None = None,
    known: dict[str, int | None] | None = None,
) -> Iterator[str]:
    """Read weights, write them in another format, and tell line by line.

    Args:
        place: what to read.
        output: file or folder that does not exist yet.
        origin: format that the input must have.
        target: format to write.
        image_size: resizes position embeddings for pictures of this size, in pixels.
        vocabulary: for the tokenizer of a Hugging Face folder.
        known: head counts, where the widths are unusual.

    Raises:
        ConfigError: bad input, an output that exists, or a disk that refuses.
    """
    path = Path(output)
    if path.exists() or path.is_symlink():
        raise ConfigError(f"--output {output} exists already: nothing is written over")
    for name, heads in (known or {}).items():
        if heads is not None and heads < 1:
            raise ConfigError(f"--{name} is {heads}: must be at least 1")
    weights = open_weights(place, **(known or {}))
    for name, heads in (known or {}).items():
        if heads not in (None, getattr(weights.config, name)):
            raise ConfigError(f"--{name} {heads}: {place} has {getattr(weights.config, name)}")
    if weights.origin != origin:
        raise ConfigError(f"--from {origin}: {place} is {KINDS[weights.origin]} ({weights.origin})")
    yield f"read {place}: {_parts(weights)}, {len(weights.tensors)} tensors"
    if weights.dropped:
        yield f"dropped, because they count from 0: {', '.join(weights.dropped)}"
    tensors, config = weights.tensors, weights.config
    try:
        if image_size is not None:
            config = replace(config, image_size=image_size)
            tensors = with_image_size(tensors, config.image_tokens)
        if target == "original":
            write_original(path, to_original(tensors))
        elif target == "ours":
            # No step was taken, and there is no run to continue: these are weights to start from.
            state = {"network": asdict(config), "samples_seen": 0}
            checkpoint.write_as(path, 0, {"model": tensors}, state)
        else:
            yield from write_folder(path, tensors, config, vocabulary, facts_of(place))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from None
    yield f"wrote {output} ({KINDS[target]}), pictures of {config.image_size} pixels"


def _parts(weights: Weights) -> str:
    roots = {name.partition(".")[0] for name in weights.tensors}
    parts = {
        "visual_encoder": "image encoder",
        "text_encoder": "text encoder",
        "text_decoder": "text decoder",
        "itm_head": "matching head",
        "cls_head": "head for two pictures",
        "visual_encoder_m": "momentum encoders",
        "image_queue": "queues",
    }
    return ", ".join(word for root, word in parts.items() if root in roots)
