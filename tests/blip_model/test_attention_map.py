"""Maps of what matching looks at are those of a plain rendering that differentiates everything."""

import math

import pytest
import torch
import torch.nn.functional as F

from blip_model import Blip
from blip_model.attention_map import attention_maps, middle_layer
from tests.tiny import spread, tiny_config, tiny_inputs

LAYERS = 3


@pytest.fixture(scope="module")
def model() -> Blip:
    torch.manual_seed(0)
    model = Blip(tiny_config(text_layers=LAYERS)).eval()
    spread(model)
    return model


def rendered(
    model: Blip, ids: torch.Tensor, states: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """One text by names of weights and textbook formulas in float64: logits [2] and every layer's
    attention to the picture [H, L, P], whose `.grad` is that of the matched logit."""
    weights = {name: value.double() for name, value in model.state_dict().items()}
    heads, width = model.config.text_heads, model.config.text_width

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attend(name: str, x: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v = (
            linear(f"{name}.self.{part}", given).view(len(given), heads, -1).transpose(0, 1)
            for part, given in (("query", x), ("key", source), ("value", source))
        )
        attention = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(width // heads), -1)
        attention.requires_grad_()
        if attention.grad_fn is not None:
            attention.retain_grad()
        context = (attention @ v).transpose(0, 1).reshape(len(x), width)
        out = norm(f"{name}.output.LayerNorm", linear(f"{name}.output.dense", context) + x)
        return out, attention

    ids = torch.cat([torch.tensor([model.config.enc_token_id]), ids[1:]])
    x = weights["text_encoder.embeddings.word_embeddings.weight"][ids]
    x = x + weights["text_encoder.embeddings.position_embeddings.weight"][: len(ids)]
    x = norm("text_encoder.embeddings.LayerNorm", x)
    seen = []
    for number in range(LAYERS):
        layer = f"text_encoder.encoder.layer.{number}"
        x, _ = attend(f"{layer}.attention", x, x)
        x, attention = attend(f"{layer}.crossattention", x, states.double())
        seen.append(attention)
        inner = F.gelu(linear(f"{layer}.intermediate.dense", x))
        x = norm(f"{layer}.output.LayerNorm", linear(f"{layer}.output.dense", inner) + x)
    logits = linear("itm_head", x[0])
    logits[1].backward()
    return logits.detach(), seen


@pytest.mark.parametrize("layer", [*range(LAYERS), None])
def test_maps_are_those_of_the_plain_rendering(model: Blip, layer: int | None) -> None:
    image, ids, mask = tiny_inputs(3, config=model.config)
    states = model.encode_image(image).detach()
    maps, logits = attention_maps(model, ids, mask, states, layer)
    assert maps.shape == (3, ids.shape[1], 4, 4)
    torch.testing.assert_close(logits, model.match(ids, mask, states).detach(), rtol=0, atol=1e-5)
    for row in range(3):
        length = int(mask[row].sum())
        expected, seen = rendered(model, ids[row, :length], states[row])
        torch.testing.assert_close(logits[row].double(), expected, rtol=0, atol=1e-4)
        attention = seen[middle_layer(model) if layer is None else layer]
        plain = (attention.grad.clamp(min=0) * attention.detach()).mean(0)[:, 1:].view(-1, 4, 4)
        scale = plain.abs().max()
        assert scale > 1e-6
        torch.testing.assert_close(
            maps[row, :length].double() / scale, plain / scale, rtol=0, atol=1e-3
        )
        assert not maps[row, length:].any()


def test_in_the_last_layer_words_do_not_reach_the_score(model: Blip) -> None:
    image, ids, mask = tiny_inputs(3, config=model.config)
    states = model.encode_image(image).detach()
    maps, _ = attention_maps(model, ids, mask, states, LAYERS - 1)
    assert maps[:, 0].any()
    assert not maps[:, 1:].any()


@pytest.mark.parametrize(("layers", "middle"), [(12, 6), (3, 1), (2, 0)])
def test_the_middle_layer_is_never_the_last(layers: int, middle: int) -> None:
    assert middle_layer(Blip(tiny_config(text_layers=layers))) == middle


@torch.no_grad()
def test_nothing_is_left_behind(model: Blip) -> None:
    """No gradient in the weights; the caller's gradient mode does not matter."""
    image, ids, mask = tiny_inputs(2, config=model.config)
    states = model.encode_image(image)
    maps, logits = attention_maps(model, ids, mask, states)
    assert maps.any()
    assert not maps.requires_grad
    assert not logits.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
