"""Videos in the network: what the original does with frames, by its definition."""

import pytest
import torch
import torch.nn.functional as F

from blip_model import Blip
from blip_model.answers import Answers
from blip_model.flops import forward_flops
from blip_model.momentum import Momentum
from blip_model.retrieval import BlipRetrieval
from blip_model.vqa import BlipVqa
from tests.tiny import spread, tiny_config, tiny_inputs

VIDEOS, FRAMES = 3, 4


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Videos [B, F, 3, H, W], ids and mask."""
    video = tiny_inputs(VIDEOS * FRAMES)[0].unflatten(0, (VIDEOS, FRAMES))
    return video, *tiny_inputs(VIDEOS, seed=1)[1:]


@torch.no_grad()
def test_tokens_follow_each_other_and_features_are_averaged(inputs: tuple) -> None:
    torch.manual_seed(0)
    model = Blip(tiny_config()).eval()
    spread(model)
    states = model.encode_image(inputs[0])
    frames = [model.visual_encoder(inputs[0][:, number]) for number in range(FRAMES)]
    torch.testing.assert_close(states, torch.cat(frames, 1))
    projected = torch.stack([model.vision_proj(frame[:, 0]) for frame in frames]).mean(0)
    feature = F.normalize(projected, dim=-1)
    torch.testing.assert_close(model.image_feature(states, FRAMES), feature)
    followed = Momentum(model, 8).eval().features(*inputs)
    torch.testing.assert_close(followed.image_feature, feature)
    # Another frame is another video.
    other = inputs[0].clone()
    other[:, -1] = inputs[0][:, 0]
    differing = model.image_feature(model.encode_image(other), FRAMES)
    assert (differing - feature).abs().max() > 1e-3


@pytest.mark.parametrize("plain", [False, True])
def test_a_frame_that_stands_alone_is_a_picture(inputs: tuple, plain: bool) -> None:
    torch.manual_seed(0)
    model = BlipVqa(tiny_config(), plain=plain)
    spread(model)
    answers = Answers(*inputs[1:], torch.arange(VIDEOS), torch.ones(VIDEOS))
    of_video = model(inputs[0][:, :1], *inputs[1:], answers)["loss_lm"]
    of_picture = model(inputs[0][:, 0], *inputs[1:], answers)["loss_lm"]
    torch.testing.assert_close(of_video, of_picture)


def test_fast_losses_are_the_definitions(inputs: tuple) -> None:
    answers = Answers(*inputs[1:], torch.arange(VIDEOS), torch.ones(VIDEOS))
    for kind, settings in ((BlipVqa, {"answers": answers}), (BlipRetrieval, {"alpha": 0.4})):
        losses, slopes = [], []
        for plain in (True, False):
            torch.manual_seed(0)
            model = kind(tiny_config(), plain=plain)
            spread(model)
            more = dict(settings)
            if kind is BlipRetrieval:
                more["momentum"] = Momentum(model, 8, with_ids=True).features(*inputs)
                more["image_id"] = torch.arange(VIDEOS)
                more["negatives"] = (torch.tensor([1, 2, 0]), torch.tensor([2, 0, 1]))
            loss = sum(model(*inputs, **more).values())
            loss.backward()
            losses.append(loss.detach())
            slopes.append(model.visual_encoder.patch_embed.proj.weight.grad)
        torch.testing.assert_close(losses[0], losses[1])
        torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-5)


def test_work_of_frames_is_counted() -> None:
    config = tiny_config()
    one, four = (forward_flops(config, 9, frames) for frames in (1, 4))
    assert (four.vision, four.keys_values) == (4 * one.vision, 4 * one.keys_values)
    assert (four.unimodal, four.head) == (one.unimodal, one.head)
    assert one.cross < four.cross < 4 * one.cross


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="the network takes"):
        Blip(tiny_config()).encode_image(torch.zeros(1, 2, 3, 16, 16))
