"""Folders that transformers' `from_pretrained` opens: weights, configuration, preprocessing.

A pretrained network fills two classes there: the folder itself is the captioner, its subfolder
`retrieval` the retriever. What no class has a place for (momentum encoders, queues, temperature)
lies beside in a file that transformers does not look at, so nothing is lost on the way back.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from blip_model.config import BlipConfig
from blip_model.convert.huggingface import (
    ANSWERER,
    CAPTIONER,
    RETRIEVER,
    from_huggingface,
    to_huggingface,
)
from engine.checkpoint import CheckpointError
from engine.config import ConfigError
from engine.data.augment import MEAN, STD
from engine.data.tokenizer import open_tokenizer
from engine.model_card import Facts, model_card
from engine.weight_files import CONFIG, read_tensors, written_whole

RETRIEVAL, TRAINING = "retrieval", "blip_training.safetensors"
# Largest number of a norm that makes no difference which one it is.
EPSILON = 1e-5


def read_folder(
    folder: Path, *, shapes_only: bool = False
) -> tuple[dict[str, torch.Tensor], BlipConfig | None]:
    """Weights in our names and the sizes that config.json says, None where there is none.

    Args:
        folder: or a file of weights in it.
        shapes_only: as in `read_tensors`.

    Raises:
        CheckpointError: not readable, or no BLIP configuration.
        ValueError: tied weights that differ.
    """
    read = partial(read_tensors, shapes_only=shapes_only)
    weights = from_huggingface(read(folder))
    if folder.is_dir() and (folder / RETRIEVAL).is_dir():
        retriever = from_huggingface(read(folder / RETRIEVAL))
        _refuse_two_networks(weights, retriever)
        weights |= retriever
    if folder.is_dir() and (folder / TRAINING).is_file():
        weights |= read(folder / TRAINING)
    config = folder / CONFIG if folder.is_dir() else folder.with_name(CONFIG)
    return weights, _read_config(config) if config.is_file() else None


def _refuse_two_networks(
    captioner: dict[str, torch.Tensor], retriever: dict[str, torch.Tensor]
) -> None:
    """One of the two was tuned since both were written: together nobody trained them."""
    for name in captioner.keys() & retriever.keys():
        one, other = captioner[name], retriever[name]
        if not one.is_meta and not torch.equal(one, other):
            raise ValueError(
                f"{RETRIEVAL} there holds another network, whose {name} differs: move it away, or "
                f"open the folder {RETRIEVAL} itself"
            )


def _read_config(path: Path) -> BlipConfig:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["model_type"] != "blip":
            raise CheckpointError(f"{path}: model_type is {tree['model_type']!r}, not 'blip'")
        vision, text = tree["vision_config"], tree["text_config"]
        _refuse_other_layers(vision, text)
        vocab = text.get("vocab_size", 30524)
        # transformers' own defaults stand where a file leaves a value out.
        return BlipConfig(
            image_size=vision.get("image_size", 384),
            patch_size=vision.get("patch_size", 16),
            vision_width=vision.get("hidden_size", 768),
            vision_layers=vision.get("num_hidden_layers", 12),
            vision_heads=vision.get("num_attention_heads", 12),
            vision_drop_path=vision.get("drop_path_rate", 0.0),
            text_width=text.get("hidden_size", 768),
            text_layers=text.get("num_hidden_layers", 12),
            text_heads=text.get("num_attention_heads", 8),
            text_intermediate=text.get("intermediate_size", 3072),
            vocab_size=vocab,
            max_positions=text.get("max_position_embeddings", 512),
            embed_dim=tree.get("image_text_hidden_size", 256),
            dropout=text.get("hidden_dropout_prob", 0.0),
            pad_token_id=text.get("pad_token_id", 0),
            sep_token_id=text.get("sep_token_id", 102),
            bos_token_id=text.get("bos_token_id", 30522),
            enc_token_id=text.get("enc_token_id", vocab - 1),
        )
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{path}: no usable BLIP configuration: no {error}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        problem = " ".join(str(error).split())
        if isinstance(error, TypeError | AttributeError):
            problem = f"a value is of the wrong kind ({problem})"
        raise CheckpointError(f"{path}: no usable BLIP configuration: {problem}") from None


def _refuse_other_layers(vision: dict[str, Any], text: dict[str, Any]) -> None:
    """What the network computes is fixed: exact GELU, and norms with 1e-6 and 1e-12. The 1e-5 that
    published folders say of their pictures' norms are 4e-5 of an embedding away."""
    for name, tower in (("vision_config", vision), ("text_config", text)):
        kind, epsilon = tower.get("hidden_act", "gelu"), tower.get("layer_norm_eps", 0.0)
        if kind != "gelu":
            raise ValueError(f"{name}.hidden_act is {kind!r}, and only 'gelu' can be computed")
        if not 0 <= epsilon <= EPSILON:
            raise ValueError(f"{name}.layer_norm_eps is {epsilon}: must be at most {EPSILON}")


def write_folder(
    target: Path,
    weights: dict[str, torch.Tensor],
    config: BlipConfig,
    vocabulary: str | None,
    facts: Facts = Facts(),  # noqa: B008 - frozen
) -> list[str]:
    """Write a folder that `from_pretrained` opens.

    Args:
        target: that does not exist yet.
        weights: in our names.
        config: sizes.
        vocabulary: vocab.txt or its folder; None looks in installed packages.
        facts: of the weights, for the model card; by default nothing is known.

    Returns:
        Lines about what is where.

    Raises:
        CheckpointError: the disk refuses.
        ValueError: no class of transformers fits.
    """
    classes, rest = to_huggingface(weights)
    said = []
    with written_whole(target) as folder:
        for kind, part in classes.items():
            sub = RETRIEVAL if kind == RETRIEVER and CAPTIONER in classes else "."
            _write_class(folder / sub, kind, part, config)
            said.append(f"{kind} in {target / sub}")
            said += _write_tokenizer(folder / sub, kind, config, vocabulary)
            card = model_card(kind, config, facts)
            (folder / sub / "README.md").write_text(card, encoding="utf-8", errors="replace")
        if rest:
            save_file({n: t.contiguous() for n, t in rest.items()}, folder / TRAINING)
            said.append(f"{len(rest)} tensors of training alone in {target / TRAINING}")
    return list(dict.fromkeys(said))


def _write_class(
    folder: Path, kind: str, weights: dict[str, torch.Tensor], config: BlipConfig
) -> None:
    folder.mkdir(exist_ok=True)
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / CONFIG, _config_tree(kind, config))
    special = {"bos_token_id": config.bos_token_id, "eos_token_id": config.sep_token_id}
    if kind != RETRIEVER:
        generation = {**special, "pad_token_id": config.pad_token_id}
        _write_json(folder / "generation_config.json", generation)
    side = {"height": config.image_size, "width": config.image_size}
    # Through text, because these are float32 and JSON should say 0.48145466.
    mean, std = ([float(str(value)) for value in values] for values in (MEAN, STD))
    pixels = {"image_mean": mean, "image_std": std, "rescale_factor": 1 / 255}
    steps = dict.fromkeys(("do_convert_rgb", "do_normalize", "do_rescale", "do_resize"), True)
    kinds = {"image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor"}
    tree = {**steps, **pixels, **kinds, "resample": 3, "size": side}
    _write_json(folder / "preprocessor_config.json", tree)


def _config_tree(kind: str, config: BlipConfig) -> dict[str, Any]:
    vision = {
        "model_type": "blip_vision_model",
        "hidden_size": config.vision_width,
        "intermediate_size": 4 * config.vision_width,
        "num_hidden_layers": config.vision_layers,
        "num_attention_heads": config.vision_heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "layer_norm_eps": 1e-6,
        "drop_path_rate": config.vision_drop_path,
    }
    text = {
        "model_type": "blip_text_model",
        "vocab_size": config.vocab_size,
        "hidden_size": config.text_width,
        "encoder_hidden_size": config.vision_width,
        "intermediate_size": config.text_intermediate,
        "num_hidden_layers": config.text_layers,
        "num_attention_heads": config.text_heads,
        "max_position_embeddings": config.max_positions,
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.sep_token_id,
        "sep_token_id": config.sep_token_id,
        "pad_token_id": config.pad_token_id,
        "enc_token_id": config.enc_token_id,
        "is_decoder": True,
    }
    return {
        "model_type": "blip",
        "architectures": [kind],
        "dtype": "float32",
        "image_text_hidden_size": config.embed_dim,
        "text_config": text,
        "vision_config": vision,
    }


def _write_tokenizer(
    folder: Path, kind: str, config: BlipConfig, vocabulary: str | None
) -> list[str]:
    """BERT's word pieces with [DEC] and [ENC] behind them, as transformers saves them.

    Questions are read behind [ENC]. transformers' answerer leaves that to its caller, so its
    tokenizer does it.
    """
    try:
        path = open_tokenizer(vocabulary, config).path
    except ConfigError as error:
        if vocabulary is not None:
            raise
        return [f"no tokenizer: {error}"]
    # Late: seconds to import, and only this format needs it.
    from tokenizers.processors import BertProcessing
    from transformers import BertTokenizer

    tokenizer = BertTokenizer(str(path))
    tokenizer.add_special_tokens({"additional_special_tokens": ["[DEC]", "[ENC]"]})
    if kind == ANSWERER:
        tokenizer.cls_token = "[ENC]"
        ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[SEP]", "[ENC]")]
        tokenizer.backend_tokenizer.post_processor = BertProcessing(*ends)
    tokenizer.save_pretrained(folder)
    return []


def _write_json(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
