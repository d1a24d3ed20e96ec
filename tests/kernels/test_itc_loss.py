"""The contrastive loss: every backend against the definition, values and gradients."""

from typing import Any

import pytest
import torch
import triton

from kernels import itc_loss
from kernels.itc_loss import triton_gemm, triton_kernels, triton_merge
from kernels.itc_loss.triton_tiles import TILES, Tiles, tiles_of

ROUNDING = 5e-7
BACKENDS = ["triton", "triton_gemm", "torch"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IDS = {"key_ids": torch.zeros(4).long(), "queue_ids": torch.zeros(5).long()}


def case(
    rows: int, width: int, queue: int, *, ids: bool = False, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Random unit vectors; the queue lies transposed, as the model keeps it."""
    generator = torch.Generator().manual_seed(rows * 1000 + width + queue)

    def vectors(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=1)

    inputs: dict[str, Any] = {
        "query_BE": vectors(rows).to(dtype),
        "momentum_query_BE": vectors(rows).to(dtype),
        "keys_BE": vectors(rows).to(dtype),
        "queue_QE": vectors(queue).T.contiguous().T.to(dtype),
    }
    if ids:
        inputs["query_ids"] = inputs["key_ids"] = torch.arange(rows) // 2
        inputs["queue_ids"] = torch.randint(-100, rows, (queue,), generator=generator)
    return {name: tensor.to(DEVICE) for name, tensor in inputs.items()}


def outcome(
    inputs: dict[str, Any], temperature: float, alpha: Any, backend: str, **settings: Any
) -> list[torch.Tensor]:
    """Loss, gradient of the queries and of the temperature, with an upstream gradient of 1.7."""
    query = inputs["query_BE"].clone().requires_grad_()
    kind = torch.float64 if query.dtype == torch.float64 else torch.float32
    tau = torch.tensor(temperature, dtype=kind, device=DEVICE, requires_grad=True)
    others = {**inputs, "query_BE": query, **settings}
    loss = itc_loss(temperature=tau, alpha=alpha, backend=backend, **others)
    (loss * 1.7).backward()
    return [loss.detach(), query.grad, tau.grad]


def truth(
    inputs: dict[str, Any], temperature: float, alpha: Any, **settings: Any
) -> list[torch.Tensor]:
    """The definition in float64."""
    exact = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    return outcome(exact, temperature, alpha, "reference", **settings)


def compare(inputs: dict[str, Any], temperature: float, alpha: Any, backend: str, **s: Any) -> None:
    """No more than twice the error of the definition in the same dtype.

    Below that lies the rounding of terms that cancel: they are of size 1 / tau in the loss and in
    the gradient of the queries, and 1 / tau^2 in that of the temperature.
    """
    exact = truth(inputs, temperature, alpha, **s)
    plain = outcome(inputs, temperature, alpha, "reference", **s)
    ours = outcome(inputs, temperature, alpha, backend, **s)
    for number, (want, torchs, got) in enumerate(zip(exact, plain, ours, strict=True)):
        name = ("loss", "query", "tau")[number]
        floor = ROUNDING * max(1.0, temperature ** -(2 if name == "tau" else 1))
        allowed = 2 * (torchs.double() - want).abs().max().item() + floor
        assert got.isfinite().all(), name
        assert (got.double() - want).abs().max().item() <= allowed, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("rows", "width", "queue"),
    [(1, 16, 0), (1, 16, 5), (5, 7, 33), (17, 40, 0), (33, 64, 65), (16, 256, 96)],
)
def test_equals_the_definition(backend: str, rows: int, width: int, queue: int) -> None:
    compare(case(rows, width, queue), 0.07, 0.4, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", [0.001, 0.02, 0.5])
@pytest.mark.parametrize("alpha", [0.0, 1.0, torch.tensor(0.3)])
def test_at_the_limits_of_temperature_and_alpha(
    backend: str, temperature: float, alpha: Any
) -> None:
    compare(case(9, 24, 21), temperature, alpha, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group_size", [None, 6, 3])
def test_several_positives_and_groups(backend: str, group_size: int | None) -> None:
    compare(case(18, 32, 37, ids=True), 0.1, 0.4, backend, group_size=group_size)
    compare(case(18, 32, 37), 0.1, 0.4, backend, group_size=group_size)


@pytest.mark.parametrize(("ids", "group_size"), [(False, None), (True, 3)])
def test_slices_of_keys_are_merged(ids: bool, group_size: int | None) -> None:
    """The fewest keys that give three slices."""
    inputs, by = case(6, 8, 190, ids=ids), TILES[torch.float32][0]
    tiles, places = triton.cdiv(190, by.keys) + 1, by.resident * 3
    assert triton_kernels.slices_of(2, tiles, places) == 3
    compare(inputs, 0.1, 0.4, "triton", group_size=group_size)


@pytest.mark.parametrize("ids", [False, True])
def test_a_slice_may_end_inside_the_batch(ids: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And then groups have keys in some slices only."""
    monkeypatch.setattr(triton_kernels, "slices_of", lambda *_: 4)
    compare(case(40, 8, 5, ids=ids), 0.1, 0.4, "triton", group_size=10)


@pytest.mark.parametrize("ids", [False, True])
def test_more_slices_than_are_read_at_once(ids: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And more rows than whose losses are."""
    monkeypatch.setattr(triton_kernels, "slices_of", lambda *_: 7)
    monkeypatch.setattr(triton_merge, "TOGETHER", 4)
    monkeypatch.setattr(triton_merge, "ROWS", 4)
    compare(case(9, 8, 100, ids=ids), 0.1, 0.4, "triton", group_size=3)


def test_slices_fill_the_places() -> None:
    assert triton_kernels.slices_of(8, 904, 132) == 16
    assert triton_kernels.slices_of(4, 904, 132) == 33
    assert triton_kernels.slices_of(2, 901, 264) == 129
    assert triton_kernels.slices_of(132, 908, 132) == 1
    assert triton_kernels.slices_of(2, 1, 264) == 1


@pytest.mark.parametrize("by", TILES[torch.bfloat16])
@pytest.mark.parametrize("ids", [False, True])
def test_the_tiles_of_bf16(ids: bool, by: Tiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter has no bf16: its tiles in float32."""
    monkeypatch.setitem(TILES, torch.float32, (by,))
    compare(case(70, 24, 150, ids=ids), 0.1, 0.4, "triton", group_size=35)


def test_tiles_fit_the_shared_memory_of_a_gpu() -> None:
    """Of Hopper, an A100, and cards like an RTX 4090, in KiB."""
    found = {
        (room, features): tiles_of(torch.bfloat16, features, room * 1024).rows
        for room in (227, 163, 99)
        for features in (256, 512)
    }
    assert [found[227, 256], found[163, 256], found[99, 256]] == [128, 64, 64]
    assert [found[227, 512], found[163, 512], found[99, 512]] == [64, 16, 16]


@pytest.mark.parametrize("ids", [False, True])
def test_chunks_of_keys_add_up(ids: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller ones than a batch and than a group, so that rows see no key of the first."""
    monkeypatch.setattr(triton_gemm, "CHUNK", 3)
    compare(case(8, 8, 5, ids=ids), 0.1, 0.4, "triton_gemm", group_size=4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_input_of_any_strides(backend: str) -> None:
    inputs = case(6, 8, 20, ids=True)
    spread = {name: t.repeat_interleave(2, 0)[::2] for name, t in inputs.items()}
    for got, want in zip(
        outcome(spread, 0.1, 0.4, backend), outcome(inputs, 0.1, 0.4, backend), strict=True
    ):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_are_losses_of_their_own(backend: str) -> None:
    inputs, tau = case(12, 16, 9), torch.tensor(0.1, device=DEVICE)
    whole = itc_loss(temperature=tau, alpha=0.4, group_size=4, backend=backend, **inputs)
    queue = inputs.pop("queue_QE")
    parts = [
        itc_loss(
            **{name: tensor[first : first + 4] for name, tensor in inputs.items()},
            queue_QE=queue,
            temperature=tau,
            alpha=0.4,
            backend=backend,
        )
        for first in (0, 4, 8)
    ]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(20, 64, 50), (150, 256, 1000)])
def test_bf16_is_as_wrong_as_torch_in_bf16(backend: str, size: tuple[int, int, int]) -> None:
    inputs = case(*size, dtype=torch.bfloat16)
    if backend.startswith("triton") and DEVICE == "cpu":
        with pytest.raises(RuntimeError, match="does not multiply bfloat16"):
            outcome(inputs, 0.07, 0.4, backend)
        with (
            torch.autocast("cpu", torch.bfloat16),
            pytest.raises(RuntimeError, match="does not multiply bfloat16"),
        ):
            outcome(case(*size), 0.07, 0.4, backend)
        return
    exact, plain = truth(inputs, 0.07, 0.4), outcome(inputs, 0.07, 0.4, "reference")
    ours = outcome(inputs, 0.07, 0.4, backend)
    for want, torchs, got in zip(exact, plain, ours, strict=True):
        allowed = 2 * (torchs.double() - want).abs().max().item() + 4e-3
        assert (got.double() - want).abs().max().item() <= allowed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_BE": torch.zeros(0, 8)}, "B > 0"),
        ({"keys_BE": torch.zeros(3, 8)}, "must have the queries' shape"),
        ({"queue_QE": torch.zeros(8, 5)}, r"must be \[Q, 8\]"),
        ({"group_size": 3}, "whole groups of 3"),
        ({"query_ids": torch.zeros(4, dtype=torch.long)}, "together, or none"),
        ({"temperature": torch.ones(1)}, "must be 0-dim"),
        ({"query_ids": torch.zeros(4, 1).long()} | IDS, r"ids of shapes \(4, 1\), \(4,\), \(5,\)"),
        ({"query_ids": torch.zeros(4)} | IDS, "ids must be int64, not torch.float32"),
        ({"keys_BE": torch.zeros(4, 8).bfloat16()}, "features need one floating dtype"),
        ({"queue_QE": torch.zeros(5, 8).long()}, "features need one floating dtype"),
        ({"queue_QE": torch.zeros(5, 8, device="meta")}, "different devices: cpu, meta"),
        ({"query_ids": torch.zeros(4, device="meta").long()} | IDS, "devices: cpu, meta"),
        ({"backend": "cuda"}, "unknown backend 'cuda'"),
    ],
)
def test_wrong_input_is_named(change: dict[str, Any], message: str) -> None:
    inputs = {name: tensor.cpu() for name, tensor in case(4, 8, 5).items()}
    good = {**inputs, "temperature": torch.tensor(0.1), "alpha": 0.4, **change}
    with pytest.raises(ValueError, match=message):
        itc_loss(**good)


def test_a_forced_backend_that_cannot_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    inputs = {name: tensor.cpu() for name, tensor in case(4, 8, 5).items()}
    with pytest.raises(RuntimeError, match="cannot run here: tensors are on cpu"):
        itc_loss(**inputs, temperature=torch.tensor(0.1), alpha=0.4, backend="triton")
