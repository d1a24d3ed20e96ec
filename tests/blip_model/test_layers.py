"""Layers that do what stands beside them in one pass: the same network, in both ways."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from blip_model.config import preset
from blip_model.layers import AddLayerNorm, Linear, LinearGelu, MlpOutput
from blip_model.momentum import Momentum
from blip_model.pretrain import BlipPretrain
from blip_model.vit import VisionAttention, VisionTransformer
from kernels.add_norm import op, several
from kernels.linear import triton_kernels
from tests.tiny import tiny_config, tiny_inputs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def losses_and_gradients(
    monkeypatch: pytest.MonkeyPatch, backend: str, drop_path: float = 0.3
) -> list[torch.Tensor]:
    """Of a step, drop path and checkpoints of activations included, no dropout in the text."""
    for layer in (Linear, LinearGelu, MlpOutput, AddLayerNorm):
        monkeypatch.setattr(layer, "backend", backend)
    torch.manual_seed(0)
    model = BlipPretrain(tiny_config(vision_drop_path=drop_path)).to(DEVICE)
    model.recompute("vision")
    momentum = Momentum(model, queue_size=11).to(DEVICE)
    parts = [tensor.to(DEVICE) for tensor in tiny_inputs(4)]
    negatives = (torch.tensor([1, 2, 3, 0], device=DEVICE),) * 2
    torch.manual_seed(1)
    losses = model(*parts, momentum.features(*parts), alpha=0.4, negatives=negatives)
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [*(loss.detach() for loss in losses.values()), *gradients]


def test_a_step_is_the_same_in_one_pass_each(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = losses_and_gradients(monkeypatch, "reference")
    fused = losses_and_gradients(monkeypatch, "triton")
    assert len(plain) == len(fused) > 100
    for want, got in zip(plain, fused, strict=True):
        assert (got - want).abs().max() <= 2e-5 * want.abs().max().clamp(min=1e-2)


def test_norms_bring_the_gradients_of_the_biases_before_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of each map that a norm reads, and in layers that run again too."""
    launches, original = [0], triton_kernels.column_sum

    def counted(x: torch.Tensor) -> torch.Tensor:
        launches[-1] += 1
        return original(x)

    monkeypatch.setattr(triton_kernels, "column_sum", counted)
    got = losses_and_gradients(monkeypatch, "triton", drop_path=0.0)
    for module in (op, several):
        monkeypatch.setattr(module, "asked", lambda branch: False)
    launches.append(0)
    want = losses_and_gradients(monkeypatch, "triton", drop_path=0.0)
    config = tiny_config()
    # Two a block, and of texts: in their own pass two, with pictures two of self-attention, of
    # encoder and decoder, and two that both share.
    assert launches[1] - launches[0] == 2 * config.vision_layers + (2 + 4) * config.text_layers
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_attention_brings_the_gradients_of_the_biases_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sums over a picture's rows are added up, not the rows; in layers that run again too."""
    torch.manual_seed(0)
    model = VisionTransformer(tiny_config()).to(DEVICE, torch.float16)
    image = torch.randn(3, 3, *[model.image_size] * 2).to(DEVICE, torch.float16)
    monkeypatch.setattr(Linear, "backend", "triton")
    monkeypatch.setattr(VisionAttention, "backend", "triton")
    rows, original = [], triton_kernels.column_sum

    def counted(x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] == 3 * tiny_config().vision_width:
            rows.append(len(x))
        return original(x)

    monkeypatch.setattr(triton_kernels, "column_sum", counted)
    biases = [block.attn.qkv.bias for block in model.blocks]
    found = []
    for recompute in (False, True):
        model.recompute = recompute
        found.append(torch.autograd.grad(model(image).square().sum(), biases))
    assert rows == [3] * 2 * tiny_config().vision_layers
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_an_image_encoder_attends_where_its_products_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = VisionTransformer(tiny_config()).to(DEVICE, torch.float16)
    image = torch.randn(2, 3, *[model.image_size] * 2).to(DEVICE, torch.float16)
    weights = [block.attn.qkv.weight for block in model.blocks]
    found = {}
    for backend in ("triton", "reference"):
        monkeypatch.setattr(VisionAttention, "backend", backend)
        states = model(image)
        upstream = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
        found[backend] = [states, *torch.autograd.grad(states, weights, upstream.to(states))]
    for got, want in zip(found["triton"], found["reference"], strict=True):
        torch.testing.assert_close(got, want, rtol=0.02, atol=0.01 * want.abs().max().item())


def test_names_and_starting_values_are_those_of_plain_layers() -> None:
    torch.manual_seed(0)
    fused = nn.ModuleDict({"fc": LinearGelu(6, 8), "norm": AddLayerNorm(8, 1e-6)}).state_dict()
    torch.manual_seed(0)
    plain = nn.ModuleDict({"fc": nn.Linear(6, 8), "norm": nn.LayerNorm(8)}).state_dict()
    assert list(fused) == list(plain)
    assert all(torch.equal(fused[name], plain[name]) for name in plain)


def test_a_norm_for_products_is_written_in_their_dtype_under_autocast() -> None:
    x, branch = torch.randn(2, 3, 8)
    for feeds_product, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        norm = AddLayerNorm(8, 1e-6, feeds_product=feeds_product)
        with torch.autocast("cpu", torch.bfloat16):
            total, normed = norm(x, branch)
        assert (total.dtype, normed.dtype) == (torch.float32, dtype)
    assert norm(x, None)[0] is x


def test_the_first_row_of_a_picture_is_that_of_all_rows() -> None:
    torch.manual_seed(0)
    encoder = BlipPretrain(replace(preset("tiny"), dropout=0.0)).visual_encoder
    image = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(encoder.first_state(image), encoder(image)[:, 0])
