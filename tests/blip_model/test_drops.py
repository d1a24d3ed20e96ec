"""What is dropped in training, in every place that has a share for it, and how weights start."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from blip_model.blip import Blip
from blip_model.med import AddNorm, Embeddings, FeedForward, MedAttention
from blip_model.momentum import Momentum
from blip_model.nlvr import BlipNlvr, TwoAddNorm, TwoCrossAttention
from blip_model.pretrain import BlipPretrain
from blip_model.vit import DropPath, VisionTransformer
from blip_model.vqa import BlipVqa
from tests.blip_model.test_nlvr import two_pictures
from tests.blip_model.test_vqa import batch, both
from tests.tiny import spread, tiny_config, tiny_inputs

Step = Callable[[], torch.Tensor]


def pretraining(plain: bool) -> tuple[Blip, Step]:
    """A network, and the losses of a step of it."""
    torch.manual_seed(0)
    model = BlipPretrain(tiny_config(), plain=plain)
    spread(model)
    parts = tiny_inputs(4)
    features = Momentum(model, queue_size=11).features(*parts)
    negatives = (torch.tensor([1, 2, 3, 0]),) * 2

    def step() -> torch.Tensor:
        losses = model(*parts, features, alpha=0.4, negatives=negatives)
        return torch.stack(list(losses.values()))

    return model, step


def answering(plain: bool) -> tuple[BlipVqa, Step]:
    """The same of question answering."""
    model = both()[0 if plain else 1]
    return model, lambda: model(*batch())["loss_lm"][None]


def judging() -> tuple[BlipNlvr, Step]:
    """The same of statements about two pictures."""
    model, parts = two_pictures(text_layers=7)
    return model, lambda: model(*parts, label=torch.tensor([0, 1, 1]))["loss_nlvr"][None]


NETWORKS: dict[str, Callable[[], tuple[Blip, Step]]] = {
    "pretrain": lambda: pretraining(False),
    "pretrain, plain": lambda: pretraining(True),
    "vqa": lambda: answering(False),
    "vqa, plain": lambda: answering(True),
    "nlvr": judging,
}
# What a module of a kind is called where several things are of it.
PLACES = [
    *((Embeddings, "embeddings"), (FeedForward, "output")),
    *((MedAttention, "attention"), (MedAttention, "crossattention")),
    *((AddNorm, "attention.output"), (AddNorm, "crossattention.output")),
    *((TwoCrossAttention, "crossattention"), (TwoAddNorm, "crossattention.output")),
]


def drop_half(model: Blip, sides: tuple[str, ...], kind: type[nn.Module], name: str) -> int:
    """Have modules of a kind that are called so drop half; how many they are."""
    named = [
        (f".{path}", one) for side in sides for path, one in getattr(model, side).named_modules()
    ]
    parts = [one for path, one in named if type(one) is kind and path.endswith(f".{name}")]
    for part in parts:
        if isinstance(part, Embeddings):
            part.dropout.p = 0.5
        else:
            part.dropout = 0.5
    return len(parts)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_place_drops_in_training_alone(network: str) -> None:
    # Matching and captioning go through the layers together, and so do their shares.
    sides = [("text_encoder", "text_decoder")] if "pretrain" in network else [("text_encoder",)]
    sides += [("text_decoder",)] if "vqa" in network else []
    tried = 0
    for place in [(side, *place) for side in sides for place in PLACES]:
        model, step = NETWORKS[network]()
        before = step()
        if not drop_half(model, *place):
            continue
        tried += 1
        alike = torch.ones_like(before, dtype=torch.bool)
        # What little one mask changes may be rounded away.
        for seed in range(4):
            torch.manual_seed(seed)
            alike &= step() == before
        # The contrast looks at no picture.
        of_contrast = "pretrain" in network and place[2].startswith("crossattention")
        wanted = [True, False, False] if of_contrast else [False] * len(alike)
        assert alike.tolist() == wanted, place
        model.eval()
        torch.testing.assert_close(step(), before, rtol=1e-4, atol=1e-4, msg=str(place))
    assert tried == 6 * len(sides)


def test_a_branch_is_left_out_or_made_larger_by_as_much() -> None:
    torch.manual_seed(0)
    branch, drop = torch.randn(4000, 2, 3), DropPath(0.25)
    ratios = (drop(branch) / branch).flatten(1)
    assert torch.equal(ratios.round(decimals=4).unique(), torch.tensor([0.0, 1.3333]))
    assert torch.equal(ratios.amin(1) > 0, ratios.amax(1) > 0)
    assert ratios.mean().item() == pytest.approx(1.0, abs=0.05)
    assert drop.eval()(branch) is branch


def test_more_is_left_out_of_later_blocks_and_of_both_of_their_branches() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(tiny_config(vision_layers=4, vision_drop_path=0.3))
    rates = [block.drop_path.probability for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    block, x = model.blocks[3], torch.randn(2, 5, tiny_config().vision_width)
    block.drop_path.probability = 1 - 1e-9
    assert torch.equal(torch.add(*block(x, None)), x)
    assert torch.equal(torch.add(*block.first(x, None)), x[:, :1])


@pytest.mark.parametrize("kind", [BlipPretrain, BlipVqa, BlipNlvr])
def test_weights_start_as_small_as_the_configuration_says(kind: type[Blip]) -> None:
    torch.manual_seed(0)
    model = kind(tiny_config(initial_std=0.05))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any() or ".proj." in name or "_proj" in name or "head" in name
    maps = [part for part in model.modules() if isinstance(part, nn.Linear | nn.Embedding)]
    for part in maps:
        if part.weight.numel() >= 4096:
            assert part.weight.std().item() == pytest.approx(0.05, rel=0.1)
    for part in (model.visual_encoder.pos_embed, model.visual_encoder.cls_token):
        assert 0.01 < part.std().item() < 0.03
