"""AdamW with followers in one pass: the definition is PyTorch's, the kernel is the definition."""

from typing import Any

import pytest
import torch

from kernels import adamw_ema_, ema_

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SETTINGS = {"learning_rate": 3e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.05}
SHAPES = [(5, 7), (0,), (2049,), (1,), (64, 64), ()]
MOMENTS = ("first_moments", "second_moments")
COPIES = ("copies", "follower_copies")
LISTS = ("weights", "gradients", *MOMENTS, "followers", *COPIES)
Case = dict[str, list[torch.Tensor | None]]


def case(shapes: list[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32) -> Case:
    """Random weights with gradients of very different sizes; some without follower or copy."""
    generator = torch.Generator().manual_seed(len(shapes))

    def random(scale: float) -> list[torch.Tensor]:
        return [
            torch.randn(shape, generator=generator).to(DEVICE, dtype) * scale * 10.0 ** -(i % 3)
            for i, shape in enumerate(shapes)
        ]

    scales = (0.1, 1.0, 0.1, 0.1, 0.1, 1.0, 1.0)
    lists: Case = dict(zip(LISTS, map(random, scales), strict=True))
    lists["second_moments"] = [tensor**2 for tensor in lists["second_moments"]]
    lists["followers"][-1] = None
    lists["copies"] = [None if i == 2 else t.bfloat16() for i, t in enumerate(lists["copies"])]
    behind = enumerate(zip(lists["followers"], lists["follower_copies"], strict=True))
    lists["follower_copies"] = [
        None if f is None or i == 1 else t.bfloat16() for i, (f, t) in behind
    ]
    return lists


def moved(lists: Case, backend: str, dtype: torch.dtype, updates: int = 3, **more: Any) -> Case:
    """The lists after some updates, whose gradients grow."""
    after = {
        name: [
            t if t is None else t.to(t.dtype if name in COPIES else dtype, copy=True) for t in part
        ]
        for name, part in lists.items()
    }
    for number in range(1, updates + 1):
        update = torch.tensor(float(number), device=DEVICE)
        adamw_ema_(**after, update=update, momentum=0.995, backend=backend, **SETTINGS, **more)
        torch._foreach_mul_(after["gradients"], 1.5)
    return after


def difference(one: Case, other: Case, name: str) -> float:
    """The largest between two lists of tensors."""
    pairs = zip(one[name], other[name], strict=True)
    apart = [(a.double() - b.double()).abs().flatten() for a, b in pairs if a is not None]
    return torch.cat(apart).max().item()


@pytest.mark.parametrize("shapes", [SHAPES, [(7,), (3, 3)]], ids=["several", "two"])
def test_the_kernel_is_as_wrong_as_the_definition(shapes: list[tuple[int, ...]]) -> None:
    lists = case(shapes)
    exact = moved(lists, "reference", torch.float64, scale=0.3)
    plain = moved(lists, "reference", torch.float32, scale=0.3)
    ours = moved(lists, "triton", torch.float32, scale=torch.tensor(0.3, device=DEVICE))
    for name in ("weights", "first_moments", "second_moments", "followers"):
        assert difference(ours, exact, name) <= 2 * difference(plain, exact, name) + 3e-8, name
    rounding = 2**-7 if DEVICE == "cpu" else 2**-8  # the interpreter cuts bfloat16 off
    for copies, of in zip(COPIES, ("weights", "followers"), strict=True):
        pairs = [(c, w) for c, w in zip(ours[copies], ours[of], strict=True) if c is not None]
        assert len(pairs) >= len(shapes) - 2
        for copy, weight in pairs:
            torch.testing.assert_close(copy.float(), weight, rtol=rounding, atol=1e-8)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_memory_that_is_not_aligned(backend: str) -> None:
    """ZeRO's parts, and slices of one long tensor, begin anywhere."""
    together = case([(33,), (100,)])
    apart = {
        name: [None if t is None else torch.cat([t[:1], t])[1:] for t in part]
        for name, part in together.items()
    }
    assert apart["weights"][0].data_ptr() % 16
    update = torch.tensor(1.0, device=DEVICE)
    for lists in (together, apart):
        adamw_ema_(**lists, update=update, momentum=0.9, backend=backend, **SETTINGS)
    assert difference(together, apart, "weights") == 0.0
    assert difference(together, apart, "followers") == 0.0


@pytest.mark.parametrize("kind", ["fused", "foreach", "single"])
def test_the_definition_is_pytorchs_adamw_and_our_ema(kind: str) -> None:
    """To rounding: PyTorch's three ways differ among themselves by as much."""
    lists = case([(300,), (40, 5)])
    parameters = [torch.nn.Parameter(weight.clone()) for weight in lists["weights"]]
    followers = [weight.clone() for weight in lists["weights"]]
    lists["followers"] = [weight.clone() for weight in lists["weights"]]
    ways = {"fused": kind == "fused", "foreach": kind == "foreach"}
    rates = {"lr": SETTINGS["learning_rate"], "weight_decay": SETTINGS["weight_decay"]}
    theirs = torch.optim.AdamW(
        parameters, betas=SETTINGS["betas"], eps=SETTINGS["eps"], **rates, **ways
    )
    lists["first_moments"] = [torch.zeros_like(weight) for weight in lists["weights"]]
    lists["second_moments"] = [torch.zeros_like(weight) for weight in lists["weights"]]
    for number in range(1, 6):
        for parameter, gradient in zip(parameters, lists["gradients"], strict=True):
            parameter.grad = gradient.clone()
        theirs.step()
        ema_(followers, [p.detach() for p in parameters], 0.995)
        update = torch.tensor(float(number), device=DEVICE)
        adamw_ema_(**lists, update=update, momentum=0.995, backend="reference", **SETTINGS)
        torch._foreach_mul_(lists["gradients"], -0.7)
    found = (lists["weights"], lists["followers"], lists["first_moments"])
    moments = [theirs.state[p]["exp_avg"] for p in parameters]
    for ours, others in zip(found, (parameters, followers, moments), strict=True):
        for got, want in zip(ours, others, strict=True):
            torch.testing.assert_close(got, want.detach(), rtol=1e-5, atol=1e-8)


def test_gradients_are_only_read() -> None:
    for backend in ("reference", "triton"):
        lists = case([(9,), (4,)])
        before = lists["gradients"][0].clone()
        adamw_ema_(**lists, update=torch.ones((), device=DEVICE), backend=backend, **SETTINGS)
        assert torch.equal(lists["gradients"][0], before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gradients": []}, "lists of 2, 0, 2"),
        ({"followers": [torch.zeros(3), None]}, r"shapes \[\(3,\), \(9,\)\] belong together"),
        ({"weights": [torch.zeros(18)[::2], torch.zeros(4)]}, "without gaps"),
        ({"followers": [None, None]}, "a copy of no follower"),
        ({"backend": "apex"}, "unknown backend 'apex'"),
    ],
)
def test_wrong_input_is_named(change: dict[str, Any], message: str) -> None:
    lists = {
        name: [None if t is None else t.cpu() for t in p] for name, p in case([(9,), (4,)]).items()
    }
    with pytest.raises(ValueError, match=message):
        adamw_ema_(**{**lists, "update": torch.ones(()), **SETTINGS, **change})


def test_a_forced_backend_that_cannot_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    half, update = (
        [torch.zeros(3, dtype=torch.bfloat16, device=DEVICE)],
        torch.ones((), device=DEVICE),
    )
    with pytest.raises(ValueError, match="triton takes float32"):
        adamw_ema_(half, half, half, half, update, backend="triton", **SETTINGS)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    lists = [[torch.zeros(3)] for _ in range(4)]
    with pytest.raises(RuntimeError, match="tensors are on cpu"):
        adamw_ema_(*lists, torch.ones(()), backend="triton", **SETTINGS)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_a_step_that_is_not_taken_changes_nothing(backend: str) -> None:
    lists = case()
    for taken in (False, True):
        told = torch.tensor(taken, device=DEVICE)
        after = moved(lists, backend, torch.float32, 1, scale=float("nan"), taken=told)
        for name in ("weights", *MOMENTS, "followers", *COPIES):
            pairs = [(a, b) for a, b in zip(lists[name], after[name], strict=True) if a is not None]
            assert all(torch.equal(a, b) for a, b in pairs) is not taken
