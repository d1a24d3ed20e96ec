"""Batches of pictures encoded: full ones, which a GPU replays, and others."""

import pytest
import torch

from engine.capfilt.encoder import Encoder
from engine.data.augment import normalised
from engine.inference import LoadedBlip, load
from tests.capfilt_runs import make_world

FULL = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_world(tmp_path_factory.mktemp("encoder")) / "captioner")


def views_of(blip: LoadedBlip, count: int, seed: int) -> torch.Tensor:
    size = blip.model.config.image_size
    chance = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=chance).to(torch.uint8)


@torch.no_grad()
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_states_are_the_encoders_and_last_as_long_as_they_must(
    weights: str, device: str, precision: str
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    blip = load(weights, device=device, precision=precision, frozen=True)
    encode, size = Encoder(blip, FULL, lasting=True), blip.model.config.image_size
    found, counts = [], [FULL, FULL, 3, FULL, FULL]
    for seed, count in enumerate(counts):
        pixels = views_of(blip, count, seed).to(device)
        found.append(encode({size: pixels, 7: pixels[:, :, :7, :7]}))
    for seed, (count, made) in enumerate(zip(counts, found, strict=True)):
        with blip.autocast():
            want = blip.model.encode_image(normalised(views_of(blip, count, seed).to(device)))
        assert made.finite
        assert torch.equal(made.states, want.to(made.states.dtype))
        assert made.states.dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)


@torch.no_grad()
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_states_that_are_no_numbers_are_told(weights: str, wrong: float) -> None:
    blip = load(weights, device="cpu", frozen=True)
    with torch.no_grad():
        blip.model.visual_encoder.norm.bias[1] = wrong
    encode = Encoder(blip, FULL, lasting=False)
    made = encode({blip.model.config.image_size: views_of(blip, FULL, 0)})
    assert not made.finite
