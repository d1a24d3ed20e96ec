"""A token's attention to those before it: as if rows were brought together and attended at once."""

import pytest
import torch

from kernels import Places, attention_step_
from kernels.attention.reference import attention_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS, HEADS, LENGTH, WIDTH = 6, 3, 11, 8
BACKENDS = ["triton", "reference"]


def steps(shared: bool, kind: torch.dtype, backend: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What eight tokens see, and what they should; `shared`: each row goes on from another."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE, kind)

    caches = [normal(ROWS, HEADS, LENGTH, WIDTH) for _ in range(2)]
    truth = [cache.clone().double() for cache in caches]
    rows, found = torch.arange(ROWS, device=DEVICE), []
    places = torch.tensor([2, 2, 2, 0, 0, 0], device=DEVICE)
    origins = rows[:, None].repeat(1, LENGTH) if shared else None
    for _ in range(8):
        if shared:
            # Within the first half and within the second one: those who share are as long.
            sources = torch.randint(3, (ROWS,), generator=generator).to(DEVICE) + rows // 3 * 3
            origins = origins[sources].scatter(1, places[:, None], rows[:, None])
            truth = [cache[sources] for cache in truth]
        query, *new = (normal(ROWS, HEADS, WIDTH) for _ in range(3))
        for cache, one in zip(truth, new, strict=True):
            cache[rows, :, places] = one.double()
        seen = attention_step_(query, *new, *caches, Places(places, origins), backend=backend)
        mask = torch.arange(LENGTH, device=DEVICE) <= places[:, None]
        expected = attention_reference(query.double()[:, :, None], *truth, mask[:, None, None], 0.0)
        found.append((seen, expected[:, :, 0].flatten(1)))
        places = places + 1
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shared", [False, True])
def test_every_token_sees_its_rows_past(shared: bool, backend: str) -> None:
    for seen, expected in steps(shared, torch.float32, backend):
        torch.testing.assert_close(seen.double(), expected, rtol=1e-5, atol=1e-6)


def test_low_precision_is_no_worse_than_the_definitions() -> None:
    errors = {}
    for backend in BACKENDS:
        pairs = steps(True, torch.bfloat16, backend)
        assert pairs[0][0].dtype == torch.bfloat16
        errors[backend] = max((seen.double() - want).abs().max().item() for seen, want in pairs)
    assert errors["triton"] <= 2 * errors["reference"] + 1e-6


def test_what_does_not_fit_is_refused() -> None:
    new = torch.zeros(2, 3, 8)
    caches, at = [torch.zeros(2, 3, 5, 8)] * 2, torch.zeros(2, dtype=torch.int64)
    places = Places(at)
    with pytest.raises(ValueError, match="do not fit caches"):
        attention_step_(new, new, new[:1], *caches, places)
    with pytest.raises(ValueError, match=r"must be \(2, 5\)"):
        attention_step_(new, new, new, *caches, Places(at, at[:, None]))
    with pytest.raises(ValueError, match="contiguous"):
        turned = [cache.transpose(0, 1).contiguous().transpose(0, 1) for cache in caches]
        attention_step_(new, new, new, *turned, places)
    long = [torch.zeros(2, 3, 65, 8)] * 2
    with pytest.raises(RuntimeError, match="more than 64"):
        attention_step_(new, new, new, *long, places, backend="triton")
    with pytest.raises(RuntimeError, match="no backward"):
        attention_step_(new.requires_grad_(), new, new, *caches, places, backend="triton")
