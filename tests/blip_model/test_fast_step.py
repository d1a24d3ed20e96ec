"""The step that does less work equals its plain definition: losses and every gradient."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from blip_model.config import preset
from blip_model.layers import Linear
from blip_model.med import MedAttention
from blip_model.momentum import Momentum
from blip_model.pretrain import BlipPretrain
from kernels.linear import triton_kernels
from kernels.lm_loss import chunked, op

GPU = torch.cuda.is_available()
CONFIG = replace(preset("tiny"), dropout=0.0)
LENGTHS = {
    "odd": [5, 2, 9, 7, 3],
    "one word": [3, 3, 3, 3],
    "full": [12, 12, 12],
    "one word and full": [3, 12, 3, 12, 12, 3],
}


def batch(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures and captions of the given lengths, padded to 12 tokens."""
    generator = torch.Generator().manual_seed(sum(lengths))
    image = torch.randn(len(lengths), 3, 32, 32, generator=generator)
    ids = torch.randint(1000, 30000, (len(lengths), 12), generator=generator)
    mask = (torch.arange(12)[None] < torch.tensor(lengths)[:, None]).long()
    ids[:, 0] = 101
    return image, ids * mask, mask


def models(config: object = CONFIG) -> tuple[BlipPretrain, BlipPretrain, Momentum]:
    """The plain and the fast model with the same weights, and their momentum encoders."""
    torch.manual_seed(0)
    plain = BlipPretrain(config, plain=True)
    fast = BlipPretrain(config)
    fast.load_state_dict(plain.state_dict())
    return plain, fast, Momentum(plain, queue_size=11)


def outcome(
    model: BlipPretrain, parts: tuple, momentum: Momentum, **settings: object
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses, and gradients of their sum weighted unevenly."""
    torch.manual_seed(7)
    features = momentum.features(*parts)
    losses = model(*parts, features, alpha=0.4, **settings)
    (losses["loss_itc"] + 1.7 * losses["loss_itm"] + 0.6 * losses["loss_lm"]).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare(parts: tuple, **settings: object) -> None:
    plain, fast, momentum = models()
    losses, gradients = outcome(plain, parts, momentum, **settings)
    fast_losses, fast_gradients = outcome(fast, parts, momentum, **settings)
    for name, loss in losses.items():
        torch.testing.assert_close(fast_losses[name], loss, rtol=1e-6, atol=1e-6, msg=name)
    assert fast_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        scale = gradient.abs().max().clamp(min=1e-3)
        difference = (fast_gradients[name] - gradient).abs().max() / scale
        assert difference < 2e-5, name


@pytest.mark.parametrize("kind", LENGTHS)
def test_losses_and_gradients_equal_the_definition(kind: str) -> None:
    compare(batch(LENGTHS[kind]))


@pytest.mark.skipif(GPU, reason="a GPU is here: the interpreter takes its place elsewhere")
@pytest.mark.parametrize("kind", ["odd", "one word and full"])
def test_with_the_kernel_of_pictures(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU runs it, the products that it reads included."""
    monkeypatch.setattr(MedAttention, "looking", "triton")
    monkeypatch.setattr(Linear, "backend", "triton")
    compare(batch(LENGTHS[kind]))


class InPlace(TorchDispatchMode):
    """Counts products that add to what is there."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        self.count += function._schema.name == "aten::addmm_"
        return function(*arguments, **(named or {}))


@pytest.mark.skipif(GPU, reason="a GPU is here: the interpreter takes its place elsewhere")
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_of_pictures_add_up_from_layer_to_layer(
    recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all passes that look at pictures, also where layers run again. Gradients of biases are
    added up of what attention brings of each picture."""
    parts, config = batch(LENGTHS["odd"]), replace(CONFIG, text_layers=3)
    found, sums, original = [], [], triton_kernels.column_sum

    def summed(x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] == 2 * config.text_width:
            sums.append(len(x))
        return original(x)

    monkeypatch.setattr(triton_kernels, "column_sum", summed)
    for backend in ("auto", "triton"):
        monkeypatch.setattr(MedAttention, "looking", backend)
        monkeypatch.setattr(Linear, "backend", backend)
        _, fast, momentum = models(config)
        fast.recompute("all" if recompute and backend == "triton" else "none")
        with InPlace() as counted:
            found.append(outcome(fast, parts, momentum, seed=1))
        assert counted.count == (2 if backend == "triton" else 0)
    pictures = len(parts[0])
    assert sums.count(pictures) == 3 and pictures * config.image_tokens not in sums
    (losses, gradients), (by_kernels, ours) = found
    torch.testing.assert_close(by_kernels, losses, rtol=1e-6, atol=1e-6)
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        scale = gradient.abs().max().clamp(min=1e-3)
        assert (ours[name] - gradient).abs().max() / scale < 2e-5, name


def test_with_groups() -> None:
    compare(batch([5, 2, 9, 7, 3, 12]), group_size=2, group_keys=torch.tensor([4, 9, 2]), seed=3)


def test_with_captions_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long batches are, and as every one is on a GPU."""
    monkeypatch.setattr(op, "MOST_MATERIALISED", -1)
    for name in ("ROWS", "GPU_ROWS"):
        monkeypatch.setattr(chunked, name, 4)
    compare(batch(LENGTHS["odd"]))


def test_repeated_pictures_and_given_negatives() -> None:
    image, ids, mask = batch([4, 6, 3, 8, 5])
    image[3] = image[1]
    negatives = (torch.tensor([1, 1, 1, 1, 1]), torch.tensor([4, 4, 4, 4, 4]))
    compare((image, ids, mask), negatives=negatives)


def test_the_negatives_drawn_are_the_same() -> None:
    parts = batch([5, 2, 9, 7, 3, 4, 8, 6])
    plain, fast, momentum = models()
    features = momentum.features(*parts)
    drawn = []
    for model in (plain, fast):
        caught: list = []
        draw = model.draw
        model.draw = lambda *a, _draw=draw, _to=caught, **k: _to.append(_draw(*a, **k)) or _to[0]
        model(*parts, features, alpha=0.4, seed=5)
        drawn.append(caught[0])
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))


def test_dropout_changes_the_fast_step_as_much_as_the_plain_one() -> None:
    """Masks cannot be shared between passes of other shapes: mean and spread are compared."""
    parts = batch([5, 2, 9, 7, 3, 12])
    plain, fast, momentum = models(replace(CONFIG, dropout=0.2))
    features = momentum.features(*parts)
    means, spreads = [], []
    for model in (plain, fast):
        rows = []
        with torch.no_grad():
            for seed in range(60):
                torch.manual_seed(seed)
                losses = model(*parts, features, alpha=0.4, negatives=_shifted(6))
                rows.append(torch.stack([*losses.values()]))
        means.append(torch.stack(rows).mean(0))
        spreads.append(torch.stack(rows).std(0))
    error = (spreads[0] ** 2 / 60 + spreads[1] ** 2 / 60).sqrt()
    assert ((means[0] - means[1]).abs() <= 4 * error + 1e-6).all()
    assert ((spreads[1] / spreads[0] > 0.5) & (spreads[1] / spreads[0] < 2)).all()


def _shifted(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.arange(count)
    return (rows + 1) % count, (rows + 2) % count


def test_evaluation_mode_has_no_randomness() -> None:
    parts = batch([5, 2, 9])
    _, fast, momentum = models(replace(CONFIG, dropout=0.2))
    fast.eval()
    momentum.eval()
    first = fast(*parts, momentum.features(*parts), alpha=0.4, seed=1)
    second = fast(*parts, momentum.features(*parts), alpha=0.4, seed=1)
    assert all(torch.equal(first[name], second[name]) for name in first)
