"""Layers that run again in the backward pass: the same losses and gradients, less kept."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from blip_model.blip import Blip
from blip_model.caption import BlipCaption
from blip_model.config import Recomputed
from blip_model.layers import AddLayerNorm, Linear, MlpOutput
from blip_model.momentum import Momentum
from blip_model.pretrain import BlipPretrain
from kernels import seeds_together
from tests.tiny import tiny_config, tiny_inputs

# Few words: logits are kept in any case, and would hide the rest.
WORDS = {"vocab_size": 300, "bos_token_id": 298, "enc_token_id": 299}
CONFIG = tiny_config(dropout=0.2, vision_drop_path=0.3, **WORDS)


def build(kind: type[Blip], what: Recomputed, **settings: object) -> Blip:
    """A network with dropout and drop path, the same whatever is made again."""
    torch.manual_seed(0)
    model = kind(CONFIG, **settings)
    model.recompute(what)
    return model


def outcome(model: Blip, precision: str = "fp32") -> tuple[list[torch.Tensor], int]:
    """Losses and gradients of a step, and the bytes kept for the backward pass."""
    parts = tiny_inputs(6, config=CONFIG)
    settings = {}
    if model.text_encoder is not None:
        torch.manual_seed(3)
        momentum = Momentum(model, queue_size=11)
        settings = {"momentum": momentum.features(*parts), "alpha": 0.4, "group_size": 2}
    there = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # The tensor is held so that no other takes its address.
        kept[storage.data_ptr()] = (storage.nbytes(), tensor.detach())
        return tensor

    torch.manual_seed(5)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        losses = model(*parts, **settings)
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    size = sum(n for at, (n, _) in kept.items() if at not in there)
    return [*(loss.detach() for loss in losses.values()), *gradients], size


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [(BlipPretrain, {}), (BlipPretrain, {"plain": True}), (BlipCaption, {})],
    ids=["fast", "plain", "caption"],
)
def test_the_same_step_with_less_kept(kind: type[Blip], settings: dict, precision: str) -> None:
    plain, most = outcome(build(kind, "none", **settings), precision)
    for what in ("norms", "vision", "all"):
        found, size = outcome(build(kind, what, **settings), precision)
        assert size < 0.9 * most, what
        most = size
        assert len(found) == len(plain)
        assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True)), what


@pytest.mark.parametrize("drawn", [nullcontext, seeds_together])
def test_the_same_step_with_masks_that_kernels_draw(
    drawn: Callable[[], AbstractContextManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose seeds are drawn again with everything else, or kept where they are drawn together."""
    for layer in (AddLayerNorm, Linear, MlpOutput):
        monkeypatch.setattr(layer, "backend", "triton")
    steps = []
    for what in ("none", "all"):
        with drawn():
            steps.append(outcome(build(BlipPretrain, what))[0])
    plain, found = steps
    assert len(found) == len(plain)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_neither_norms_that_products_read_nor_activations_are_kept(precision: str) -> None:
    """Norms of pictures' blocks, those that texts' MLPs read, and what the GELUs of all give."""
    sizes = [outcome(build(BlipPretrain, what), precision)[1] for what in ("none", "norms")]
    # Two norms of a picture's block, and its MLP, four times as wide.
    numbers = CONFIG.image_tokens * (2 + 4) * CONFIG.vision_layers * CONFIG.vision_width
    # Texts of one token at least: contrast, three times matching and captioning, the last layers
    # of all but captioning for that token alone.
    of_token = CONFIG.text_width + CONFIG.text_intermediate
    numbers += (1 + 3 + 1) * of_token * CONFIG.text_layers
    itemsize = 4 if precision == "fp32" else 2
    assert sizes[0] - sizes[1] >= 6 * numbers * itemsize


def test_by_default_norms_and_activations_are_made_again() -> None:
    found = []
    for model in (BlipPretrain(CONFIG), build(BlipPretrain, "norms")):
        found.append(outcome(model)[1])
    assert found[0] == found[1]


def test_the_momentum_encoders_keep_nothing_anyway() -> None:
    """They take the settings along and have no backward pass to run layers again in."""
    model = build(BlipPretrain, "all")
    features = Momentum(model, queue_size=11).features(*tiny_inputs(4, config=CONFIG))
    assert not features.image_feature.requires_grad
