"""Sums that programs add up together: how they are split, and in how many rounds they end."""

import pytest
import torch

from kernels.bias_gelu import triton_kernels as gelu
from kernels.linear import triton_kernels as linear
from kernels.parts import TOGETHER, counters

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("rows", [0, 1, 64, 65, 3360, 14368, 50432])
@pytest.mark.parametrize("columns", [1, 4, 12, 36, 48, 1000])
def test_a_sum_is_read_at_once_and_every_program_has_rows(rows: int, columns: int) -> None:
    each, parts = linear.split(rows, columns)
    assert parts <= linear.PARTS
    assert columns * parts <= max(columns, linear.PROGRAMS)
    assert each % linear.BLOCK_M == 0 and (parts - 1) * each <= max(0, rows - 1) < parts * each


def test_columns_of_as_many_parts_as_there_may_be() -> None:
    torch.manual_seed(0)
    x = torch.randn(linear.PARTS * linear.BLOCK_M - 7, 3, device=DEVICE)
    assert linear.split(len(x), 1)[1] == linear.PARTS
    found = linear.column_sum(x)
    torch.testing.assert_close(found, x.double().sum(0).float(), atol=1e-4, rtol=1e-5)
    assert torch.equal(linear.column_sum(x), found)


def test_a_sum_of_more_parts_than_are_read_at_once() -> None:
    torch.manual_seed(0)
    rows = (TOGETHER + 3) * 4 * gelu.BACKWARD
    upstream, product = torch.randn(2, rows, 5, device=DEVICE)
    inputs = (upstream, product, torch.randn(5, device=DEVICE))
    by_product, by_bias, _ = gelu.backward(*inputs)
    torch.testing.assert_close(by_bias, by_product.double().sum(0).float(), atol=1e-4, rtol=1e-5)
    assert torch.equal(gelu.backward(*inputs)[1], by_bias)
    assert not counters(upstream.device).any()
