"""Patches of a picture that two encoders read are made once, and are those of the picture."""

from contextlib import nullcontext

import pytest
import torch

from blip_model import vit
from blip_model.config import preset
from blip_model.momentum import Momentum
from blip_model.pretrain import BlipPretrain

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The patches that encoders have read."""
    seen: list[torch.Tensor] = []
    linear = vit.linear
    monkeypatch.setattr(vit, "linear", lambda x, *rest: seen.append(x) or linear(x, *rest))
    return seen


def picture(side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randn(2, 3, side, side, generator=generator).to(DEVICE)


@pytest.mark.parametrize("low", [False, True])
def test_a_step_makes_them_once(read: list[torch.Tensor], low: bool) -> None:
    model = BlipPretrain(preset("tiny")).to(DEVICE)
    momentum, image = Momentum(model, queue_size=7).to(DEVICE), picture()
    ids = torch.tensor([[101, 2000, 102], [101, 3000, 102]], device=DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16) if low else nullcontext():
        inputs = (image, ids, torch.ones_like(ids))
        model(*inputs, momentum.features(*inputs), alpha=0.4)["loss_itc"].backward()
        again = model.visual_encoder.patch_embed.proj.patches(image.clone())
    first, second = read
    assert second is first and torch.equal(first, again)
    assert first.dtype == (torch.bfloat16 if low else torch.float32)
    assert model.visual_encoder.patch_embed.proj.weight.grad.any()


def test_kept_ones_are_of_that_picture_that_dtype_and_that_cut() -> None:
    proj, image = vit.PatchProjection(3, 8, kernel_size=16, stride=16).to(DEVICE), picture()
    proj.keep_patches(image)
    kept = proj.patches(image)
    assert proj.patches(image) is kept
    with torch.autocast(DEVICE, torch.bfloat16):
        assert proj.patches(image).dtype == torch.bfloat16
    other = vit.PatchProjection(3, 8, kernel_size=8, stride=8).to(DEVICE)
    assert other.patches(image).shape == (2, 16, 192)
    image.mul_(2)
    assert torch.equal(proj.patches(image), kept * 2)


def test_a_picture_that_trains_gets_its_gradient() -> None:
    proj, image = vit.PatchProjection(3, 8, kernel_size=16, stride=16).to(DEVICE), picture()
    image.requires_grad_()
    with torch.no_grad():
        proj.keep_patches(image)
    proj(image).sum().backward()
    assert image.grad.any()
    with torch.inference_mode():
        proj.keep_patches(picture())
