"""Tensors joined without a copy where they stand side by side, and never otherwise."""

import pytest
import torch

from kernels.adjacent import side_by_side


def numbers(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("sizes", [[4], [2, 2], [1, 3], [1, 1, 2]])
def test_parts_of_a_tensor_are_seen_as_that_tensor(dim: int, sizes: list[int]) -> None:
    whole = numbers(6, 6, 6)[1:5, 2:, :4]
    found = side_by_side(whole.split(sizes, dim), dim)
    assert torch.equal(found, whole)
    assert (found.data_ptr(), found.stride()) == (whole.data_ptr(), whole.stride())


WHOLE = numbers(6, 4)
PARTS = {
    "a gap": [WHOLE[:3], WHOLE[4:6]],
    "another order": [WHOLE[3:], WHOLE[:3]],
    "twice the same": [WHOLE[:2]] * 2,
    "other memory": [numbers(2, 4), numbers(3, 4)],
    "other strides": [WHOLE[:4], WHOLE[:4].T],
    "overlapping": [WHOLE[:3], WHOLE[2:4]],
}


@pytest.mark.parametrize("kind", PARTS)
def test_all_others_are_copied(kind: str) -> None:
    parts = PARTS[kind]
    found = side_by_side(parts, 0)
    assert torch.equal(found, torch.cat(parts))
    starts = {part.untyped_storage().data_ptr() for part in parts}
    assert found.untyped_storage().data_ptr() not in starts


def test_parts_that_do_not_fit_are_told_as_ever() -> None:
    whole = numbers(6, 4)
    with pytest.raises(RuntimeError, match="[Ss]izes of tensors must match"):
        side_by_side([whole[:2], whole[2:4, :3]], 0)
