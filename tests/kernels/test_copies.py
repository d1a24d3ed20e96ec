"""Copies of weights: the bits and gradients of a cast, and never those of an older weight."""

import copy
import gc
import weakref
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from kernels import adamw_ema_, ema_, linear, linear_gelu, lm_loss, mlp
from kernels.copies import _KEPT, Copies, in_dtype, multiplied

LOW = torch.bfloat16
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SETTINGS = {"learning_rate": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.05}


def weights(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    """Random ones, the same each time."""
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(DEVICE)) for shape in shapes]


def scored(tokens: int) -> Callable[..., torch.Tensor]:
    """The captioning loss of so many tokens; many go through the chunks."""
    targets = torch.arange(tokens, device=DEVICE) % 11
    each = torch.full((tokens,), 1 / tokens, device=DEVICE)
    return lambda x, weight, bias: lm_loss(x[:tokens], weight, bias, targets, each)


MAP, MLP = [(11, 6), (11,)], [(11, 6), (11,), (5, 11), (5,)]
FUSED = {
    "linear": (linear, MAP),
    "a convolution's weight": (linear, [(11, 3, 2, 1), (11,)]),
    "linear_gelu": (linear_gelu, MAP),
    "mlp": (mlp, MLP),
}
OPS = {
    **FUSED,
    "mlp by its definition": (partial(mlp, backend="reference"), MLP),
    **{f"{n} by the kernel": (partial(op, backend="triton"), w) for n, (op, w) in FUSED.items()},
    "few words": (scored(7), MAP),
    "many words": (scored(600), MAP),
}


@pytest.mark.parametrize("name", OPS)
def test_results_and_gradients_are_those_of_a_cast_bit_by_bit(name: str) -> None:
    """Read by three passes, and twice in each, as those of shared layers are."""
    op, shapes = OPS[name]
    # Casts of a convolution's weight are made anew for each product, and one alone reads it.
    shape = (1 if len(shapes[0]) > 2 else 2, 600 if "words" in name else 9, 6)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    found = []
    for dtype in (LOW, None):
        ours = weights(*shapes)
        kept = Copies(ours if dtype else [], LOW)
        for _ in range(3):
            with torch.autocast(DEVICE, LOW):
                outs = [op(part, *ours) for part in x]
            torch.stack([out.float().square().sum() for out in outs]).sum().backward()
        assert kept.refresh() == 0
        assert all(weight.grad.shape == weight.shape for weight in ours)
        found.append([*outs, *(weight.grad for weight in ours)])
    for got, want in zip(*found, strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


def test_products_read_the_copy_and_nothing_else() -> None:
    (weight,) = weights((4, 3))
    kept = Copies([weight], LOW)
    with torch.no_grad(), torch.autocast(DEVICE, LOW):
        assert multiplied(weight)[0].data_ptr() == kept.of(weight).data_ptr()
    assert multiplied(weight)[0] is weight
    assert in_dtype(weight, torch.float32) is weight
    assert in_dtype(weight, torch.float16).dtype == torch.float16
    with torch.no_grad():
        assert not in_dtype(weight, LOW).requires_grad
        assert in_dtype(weight, LOW).data_ptr() == kept.of(weight).data_ptr()


def test_copies_of_matrices_and_of_vectors_stand_side_by_side() -> None:
    """In the order of their weights, wherever a copy of 16 bytes' multiple ends."""
    ours = weights((4, 4), (4,), (2, 4), (16,), (3, 3), (8,), (5, 8))
    matrices, vectors = ours[::2], ours[1::2]
    kept = Copies(ours, LOW)
    places = {weight: kept.of(weight) for weight in ours}
    assert all(place.data_ptr() % 16 == 0 for place in places.values())
    assert all(torch.equal(place, weight.to(LOW)) for weight, place in places.items())

    def ends_where(one: nn.Parameter, other: nn.Parameter) -> bool:
        end = places[one].data_ptr() + places[one].nbytes
        return end == places[other].data_ptr()

    # A vector of 4 and a matrix of 9 leave a gap.
    assert [ends_where(*pair) for pair in pairwise(matrices)] == [True, True, False]
    assert [ends_where(*pair) for pair in pairwise(vectors)] == [False, True]
    # Changes of each are counted apart.
    counts = [places[weight]._version for weight in ours]
    ours[0].detach().mul_(2)
    assert kept.refresh() == 1
    changes = [places[w]._version - count for w, count in zip(ours, counts, strict=True)]
    assert changes == [1, 0, 0, 0, 0, 0, 0]


def test_a_copy_has_the_strides_of_its_weight() -> None:
    """A pass over weights and copies goes through their memory."""
    (weight,) = weights((4, 3, 2, 5))
    turned = nn.Parameter(weight.detach().to(memory_format=torch.channels_last))
    kept = Copies([turned], LOW)
    assert kept.of(turned).stride() == turned.stride()
    assert torch.equal(kept.of(turned), turned.to(LOW))


def one_pass(weight: nn.Parameter, backend: str) -> None:
    """An update that knows of no copy."""
    update = torch.ones((), device=DEVICE)
    given = [[weight.detach()], *([torch.ones_like(weight)] for _ in range(3))]
    adamw_ema_(*given, update, backend=backend, **SETTINGS)


def swapped(weight: nn.Parameter) -> None:
    """Other memory with other numbers, as when a module moves."""
    weight.data = weight.detach() + 1


CHANGES = {
    "in place": lambda w: w.detach().mul_(2),
    "a slice": lambda w: w.detach()[1].zero_(),
    "followed": lambda w: ema_([w.detach()], [torch.ones_like(w)], 0.5),
    "loaded": lambda w: nn.ParameterList([w]).load_state_dict({"0": torch.ones_like(w)}),
    "definition": lambda w: one_pass(w, "reference"),
    "kernel": lambda w: one_pass(w, "triton"),
    "elsewhere": swapped,
}


@torch.no_grad()
@pytest.mark.parametrize("name", CHANGES)
def test_a_weight_that_has_changed_is_cast_until_its_copy_is_written(name: str) -> None:
    weight, other = weights((4, 3), (2, 2))
    kept = Copies([weight, other], LOW)
    place = kept.of(weight).data_ptr()
    CHANGES[name](weight)
    assert not torch.equal(kept.of(weight), weight.to(LOW))
    found = in_dtype(weight, LOW)
    assert found.data_ptr() != place
    assert torch.equal(found, weight.to(LOW))
    assert kept.refresh() == 1
    assert torch.equal(kept.of(weight), weight.to(LOW))
    assert in_dtype(weight, LOW).data_ptr() == kept.of(weight).data_ptr() == place
    kept.check()


def test_a_write_that_nothing_counts_is_found() -> None:
    weight, other = weights((4, 3), (2, 2))
    kept = Copies([weight, other], LOW)
    weight.data.mul_(2)
    with pytest.raises(RuntimeError, match=r"1 of 2 copies are not .* \(\[4, 3\]\)"):
        kept.check()
    torch.autograd.graph.increment_version([weight])
    kept.check()


def test_a_copy_that_is_written_between_the_passes_is_an_error() -> None:
    weight, bias = weights((4, 3), (4,))
    kept = Copies([weight, bias], LOW)
    with torch.autocast(DEVICE, LOW):
        out = linear(torch.randn(2, 3, device=DEVICE, requires_grad=True), weight, bias)
    weight.detach().mul_(2)
    kept.refresh()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_weights_keep_nothing_alive_and_find_nothing_afterwards() -> None:
    (weight,) = weights((4, 3))
    kept = Copies([weight], LOW)
    in_dtype(weight, LOW).sum().backward()
    place = kept.of(weight).data_ptr()
    del kept
    assert in_dtype(weight, LOW).data_ptr() != place or _KEPT[weight]() is None
    kept, gone = Copies([weight], LOW), weakref.ref(weight)
    del kept, weight
    gc.collect()
    assert gone() is None


def test_a_weight_that_trains_from_later_on_gets_gradients() -> None:
    (weight,) = weights((4, 3))
    kept = Copies([weight.requires_grad_(False)], LOW)
    assert in_dtype(weight, LOW).data_ptr() == kept.of(weight).data_ptr()
    in_dtype(weight.requires_grad_(), LOW).sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_a_module_with_copies_is_saved_and_copied_whole(tmp_path: Path) -> None:
    module = nn.Linear(8, 4)
    kept = Copies(module.parameters(), LOW)
    torch.save(module, tmp_path / "whole.pt")
    loaded = torch.load(tmp_path / "whole.pt", weights_only=False)
    for other in (loaded, copy.deepcopy(module)):
        torch.testing.assert_close(other.weight, module.weight, rtol=0, atol=0)
        with torch.no_grad():
            other.weight.zero_()
        # Its own weight, cast, and not the first one's copy.
        assert not in_dtype(other.weight, LOW).any()
    torch.save(list(module.parameters()), tmp_path / "weights.pt")
    assert len(torch.load(tmp_path / "weights.pt", weights_only=True)) == 2
    assert in_dtype(module.weight, LOW) is not module.weight and kept.refresh() == 0
