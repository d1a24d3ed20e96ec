"""Weights that are no whole network, or not one network, are refused by name."""

from collections.abc import Callable

import pytest
import torch

from blip_model.convert.original import from_original
from blip_model.convert.shapes import check_shapes, infer_config
from tests import golden_files


def golden_weights(name: str) -> dict[str, torch.Tensor]:
    return golden_files.read(name).under("weights.")


def test_a_head_that_is_not_tied_is_refused() -> None:
    weights = golden_weights("caption")
    weights["text_decoder.cls.predictions.decoder.weight"] = torch.zeros(96, 32)
    with pytest.raises(ValueError, match="differs from text_decoder.bert.embeddings.word"):
        from_original(weights)


@pytest.mark.parametrize(
    "name", ["embeddings.word_embeddings.weight", "encoder.layer.1.crossattention.self.key.weight"]
)
def test_encoder_and_decoder_that_are_not_tied_are_refused(name: str) -> None:
    weights, config = golden_weights("pretrain"), golden_files.read("pretrain").config
    weights[f"text_encoder.{name}"] = weights[f"text_encoder.{name}"] + 1
    with pytest.raises(ValueError, match=f"text_decoder.bert.{name} differs from text_encoder"):
        check_shapes(weights, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor.to(torch.int8), "is int8, strided: must be dense, of float16"),
        (lambda tensor: tensor.to(torch.complex64), "is complex64"),
        (lambda tensor: tensor.to(torch.float8_e4m3fn), "is float8_e4m3fn"),
        (lambda tensor: tensor.to_sparse(), "sparse_coo"),
    ],
)
def test_numbers_of_other_kinds_are_refused(
    change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    weights, config = golden_weights("caption"), golden_files.read("caption").config
    name = "visual_encoder.blocks.0.attn.qkv.weight"
    with pytest.raises(ValueError, match=f"{name} .*{message}|{name} {message}"):
        check_shapes(weights | {name: change(weights[name])}, config)


@pytest.mark.parametrize("name", ["visual_encoder.pos_embed", "visual_encoder.cls_token"])
def test_tensors_without_dimensions_are_named(name: str) -> None:
    weights = golden_weights("caption") | {name: torch.zeros(())}
    with pytest.raises(ValueError, match=rf"{name} is \[\], which has not 3 dimensions"):
        infer_config(weights, vision_heads=2, text_heads=2)


def test_what_is_missing_left_over_or_misshapen_is_named() -> None:
    weights, config = golden_weights("pretrain"), golden_files.read("pretrain").config
    gone = weights.pop("text_encoder_m.encoder.layer.1.output.dense.bias")
    with pytest.raises(
        ValueError, match="^lacks text_encoder_m.encoder.layer.1.output.dense.bias$"
    ):
        check_shapes(weights, config)
    weights["text_encoder_m.encoder.layer.1.output.dense.bias"] = gone
    weights["strange"] = gone
    weights["idx_queue"] = gone
    weights["temp"] = gone
    with pytest.raises(ValueError) as problem:
        check_shapes(weights, config)
    assert "has unexpected idx_queue; has unexpected strange; temp is [32], not []" in str(
        problem.value
    )


def test_a_scorer_without_its_matching_head_is_not_complete() -> None:
    weights = golden_weights("filter")
    weights = {n: t for n, t in weights.items() if not n.startswith("itm_head.")}
    with pytest.raises(ValueError, match="lacks itm_head.bias; lacks itm_head.weight"):
        check_shapes(weights, infer_config(weights))
