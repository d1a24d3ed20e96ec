"""Hard negatives: drawn by their weights, never a match, the same wherever a group lies."""

import pytest
import torch

from kernels import draw_hard_negatives
from kernels.hard_negatives.reference import negative_weights

BACKENDS = ["triton", "torch"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def vectors(count: int, width: int = 16, seed: int = 0) -> torch.Tensor:
    """Random unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=1).to(
        DEVICE
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("with_ids", [False, True])
def test_draws_by_the_weights(backend: str, with_ids: bool) -> None:
    # The interpreter takes some 40 ms a group.
    group, repeats = 5, 250 if backend == "triton" and not torch.cuda.is_available() else 2000
    query, keys, tau = vectors(group), vectors(group, seed=1), torch.tensor(0.3, device=DEVICE)
    ids = torch.tensor([0, 0, 1, 2, 3], device=DEVICE) if with_ids else None
    drawn = (
        draw_hard_negatives(
            query.repeat(repeats, 1),
            keys.repeat(repeats, 1),
            tau,
            seed=3,
            ids=None if ids is None else ids.repeat(repeats),
            group_size=group,
            backend=backend,
        )
        .view(repeats, group)
        .cpu()
    )
    inside = drawn - torch.arange(repeats)[:, None] * group
    assert ((inside >= 0) & (inside < group)).all()
    weights = negative_weights(query, keys, tau, 1e-4, ids, group)[0].cpu()
    expected = repeats * (weights / weights.sum(1, keepdim=True)).double()
    counts = torch.stack([torch.bincount(inside[:, row], minlength=group) for row in range(group)])
    sigma = (expected * (1 - expected / repeats)).sqrt()
    assert ((counts - expected).abs() <= 4.5 * sigma + 1e-9).all()
    assert (counts[expected == 0] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_draws_alike_wherever_it_lies(backend: str) -> None:
    size, tau = 19, torch.tensor(0.1, device=DEVICE)
    queries, keys = vectors(2 * size), vectors(2 * size, seed=1)
    names = torch.tensor([7, 40], device=DEVICE)
    settings = {"seed": 11, "group_size": size, "backend": backend}
    together = draw_hard_negatives(queries, keys, tau, group_keys=names, **settings)
    for place in (0, 1):
        rows = slice(place * size, (place + 1) * size)
        alone = draw_hard_negatives(
            queries[rows], keys[rows], tau, group_keys=names[place : place + 1], **settings
        )
        assert torch.equal(alone + place * size, together[rows])
    other_seed = draw_hard_negatives(
        queries, keys, tau, group_keys=names, **{**settings, "seed": 12}
    )
    assert not torch.equal(other_seed, together)


def test_a_group_of_several_tiles_draws_what_its_noise_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel's numbers: the largest of log weight and noise, noise of seed, group and cell."""
    import triton
    import triton.language as tl

    from kernels.hard_negatives import triton_kernels

    @triton.jit
    def uniform_kernel(out_ptr, stream, cells, BLOCK: tl.constexpr) -> None:
        cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(out_ptr + cell, tl.rand(stream, cell), cell < cells)

    monkeypatch.setattr(triton_kernels, "BLOCK_N", 32)
    size, seed, name = 70, 12345, 9
    query, keys, tau = vectors(size, 24), vectors(size, 24, seed=1), torch.tensor(0.07)
    tau, ids = tau.to(DEVICE), torch.arange(size, device=DEVICE) // 3
    settings = {"seed": seed, "group_keys": torch.tensor([name], device=DEVICE), "ids": ids}
    drawn = draw_hard_negatives(query, keys, tau, **settings, backend="triton")
    uniform = torch.zeros(size, size, device=DEVICE)
    stream = seed ^ (name * 0x9E3779B97F4A7C1)
    stream = (stream + 2**63) % 2**64 - 2**63
    uniform_kernel[(triton.cdiv(size**2, 1024),)](uniform, stream, size**2, BLOCK=1024)
    noise = -(-uniform.double().clamp(min=1e-12).log()).log()
    weights = negative_weights(query, keys, tau, 1e-4, ids, size)[0]
    assert torch.equal(drawn, (weights.log() + noise).argmax(1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_without_a_candidate_draw_among_the_others(backend: str) -> None:
    count, tau = 4, torch.tensor(0.1, device=DEVICE)
    repeats = 100
    query, keys = vectors(count).repeat(repeats, 1), vectors(count, seed=1).repeat(repeats, 1)
    same = torch.zeros(count * repeats, dtype=torch.long, device=DEVICE)
    drawn = draw_hard_negatives(
        query, keys, tau, seed=0, ids=same, floor=0.0, group_size=count, backend=backend
    )
    inside = drawn.view(repeats, count).cpu() - torch.arange(repeats)[:, None] * count
    for row in range(count):
        counts = torch.bincount(inside[:, row], minlength=count)
        assert counts[row] == 0
        assert (counts[torch.arange(count) != row] > 12).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_whose_weights_vanish_draw_no_match(backend: str) -> None:
    """Where the temperature leaves all weight to the own key, a text of the same picture must not
    be called unmatched."""
    count, repeats = 5, 60
    keys = torch.eye(count, 16, device=DEVICE).repeat(repeats, 1)
    ids = torch.tensor([1, 1, 2, 3, 4], device=DEVICE).repeat(repeats)
    tau = torch.tensor(0.005, device=DEVICE)
    settings = {"seed": 0, "ids": ids, "floor": 0.0, "group_size": count, "backend": backend}
    drawn = draw_hard_negatives(keys, keys, tau, **settings).view(repeats, count).cpu()
    inside = drawn - torch.arange(repeats)[:, None] * count
    for row in range(count):
        counts = torch.bincount(inside[:, row], minlength=count)
        matching = {0, 1} if row < 2 else {row}
        assert all((n > 5) == (key not in matching) for key, n in enumerate(counts.tolist()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_of_one_draws_itself(backend: str) -> None:
    drawn = draw_hard_negatives(
        vectors(3),
        vectors(3),
        torch.tensor(0.1, device=DEVICE),
        seed=0,
        group_size=1,
        backend=backend,
    )
    assert drawn.tolist() == [0, 1, 2]


def test_greedy_takes_the_most_similar_other() -> None:
    query, keys = vectors(12), vectors(12, seed=1)
    scores = (query @ keys.T).fill_diagonal_(-2.0)
    drawn = draw_hard_negatives(query, keys, torch.tensor(0.1, device=DEVICE), seed=0, greedy=True)
    assert torch.equal(drawn, scores.argmax(1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_input_of_any_strides_and_dtype(backend: str) -> None:
    query, keys, tau = vectors(9), vectors(9, seed=1), torch.tensor(0.1, device=DEVICE)
    ids = torch.arange(9, device=DEVICE) // 2
    settings = {"seed": 5, "group_size": 3, "backend": backend}
    plain = draw_hard_negatives(query, keys, tau, ids=ids, **settings)
    spread = [tensor.repeat_interleave(2, 0)[::2] for tensor in (query, ids)]
    names = torch.arange(6, device=DEVICE)[::2] // 2
    other = draw_hard_negatives(
        spread[0],
        keys.double().T.contiguous().T,
        tau.double(),
        ids=spread[1],
        group_keys=names,
        **settings,
    )
    assert torch.equal(other, plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_BE": torch.zeros(0, 16), "keys_BE": torch.zeros(0, 16)}, "B > 0"),
        ({"keys_BE": torch.zeros(4, 15)}, r"must both be \[B, E\]"),
        ({"group_size": 3}, "not groups of 3"),
        ({"group_keys": torch.arange(2)}, "2 group keys for 1 groups"),
        ({"group_keys": torch.zeros(1)}, "group_keys must be int64, not torch.float32"),
        ({"ids": torch.zeros(3, dtype=torch.long)}, r"ids \(3,\) must be \[4\]"),
        ({"ids": torch.zeros(4)}, "ids must be int64, not torch.float32"),
        ({"temperature": torch.ones(1)}, "must be 0-dim"),
        ({"query_BE": torch.zeros(4, 16).long()}, "queries torch.int64 and keys"),
        ({"keys_BE": torch.zeros(4, 16, device="meta")}, "different devices: cpu, meta"),
        ({"ids": torch.zeros(4, device="meta").long()}, "different devices: cpu, meta"),
        ({"backend": "cuda"}, "unknown backend 'cuda'"),
    ],
)
def test_wrong_input_is_named(change: dict[str, object], message: str) -> None:
    good = {"query_BE": vectors(4).cpu(), "keys_BE": vectors(4).cpu()}
    with pytest.raises(ValueError, match=message):
        draw_hard_negatives(**{**good, "temperature": torch.tensor(0.1), "seed": 0, **change})


def test_a_forced_backend_that_cannot_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    features, tau = vectors(4).cpu(), torch.tensor(0.1)
    with pytest.raises(RuntimeError, match="cannot run here: tensors are on cpu"):
        draw_hard_negatives(features, features, tau, seed=0, backend="triton")
