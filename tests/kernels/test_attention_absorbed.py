"""Absorbed attention: no more wrong than projecting, and as much work as it says."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels import attention_absorbed
from kernels.attention.reference import attention_absorbed_reference

BATCH, HEADS, SIZE, STATES, WIDTH = 3, 4, 8, 37, 24


def inputs(length: int) -> list[torch.Tensor]:
    """Scores of deviation about 1, so that the softmax prefers some states."""
    generator = torch.Generator().manual_seed(length)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    shape = (HEADS, SIZE, WIDTH)
    weights = (random(*shape) * WIDTH**-0.5, random(*shape) * WIDTH**-0.5)
    source = random(BATCH, STATES, WIDTH)
    return [random(BATCH, HEADS, length, SIZE) * 2, source, *weights, random(HEADS * SIZE)]


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_no_more_wrong_than_projecting(length: int, dtype: torch.dtype) -> None:
    tensors = [tensor.to(dtype) for tensor in inputs(length)]
    truth = attention_absorbed_reference(*(tensor.double() for tensor in tensors))
    projecting = attention_absorbed_reference(*tensors)
    found = attention_absorbed(*tensors)
    assert found.dtype == dtype and found.shape == (BATCH, length, HEADS * SIZE)
    error, allowed = ((x.double() - truth).abs().max() for x in (found, projecting))
    assert error <= 2 * allowed + 1e-6
    # The states matter: attention to all alike would be far away.
    assert (truth - truth.mean()).abs().max() > 100 * allowed


def test_a_key_bias_would_change_nothing() -> None:
    query, source, key, value, bias = (tensor.double() for tensor in inputs(5))
    # A constant state makes a bias of the keys.
    source = torch.cat([source, torch.ones(BATCH, STATES, 1).double()], 2)
    key_bias = torch.randn(HEADS, SIZE, 1).double() * 3
    value = torch.cat([value, torch.zeros_like(key_bias)], 2)
    with_bias = attention_absorbed(query, source, torch.cat([key, key_bias], 2), value, bias)
    without = torch.cat([key, torch.zeros_like(key_bias)], 2)
    torch.testing.assert_close(with_bias, attention_absorbed(query, source, without, value, bias))


def test_autocast_multiplies_in_its_dtype() -> None:
    tensors = inputs(5)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention_absorbed(*tensors)
    assert torch.equal(found, attention_absorbed(*(tensor.bfloat16() for tensor in tensors)))


def test_does_the_work_that_it_says() -> None:
    length = 5
    with FlopCounterMode(display=False) as counter:
        attention_absorbed(*inputs(length))
    tokens, width = BATCH * length, HEADS * SIZE
    carried, attended = 2 * tokens * width * WIDTH, 2 * tokens * HEADS * STATES * WIDTH
    assert counter.get_total_flops() == 2 * (carried + attended)


def test_shapes_that_do_not_fit_are_refused() -> None:
    query, source, key, value, bias = inputs(5)
    with pytest.raises(ValueError, match="must be .B, H, L, K., .B, S, E. and .H, K, E."):
        attention_absorbed(query, source[:2], key, value, bias)
    with pytest.raises(ValueError, match="must be .B, H, L, K."):
        attention_absorbed(query, source, key, value[..., :-1], bias)
    with pytest.raises(ValueError, match="value_bias"):
        attention_absorbed(query, source, key, value, bias[:-1])
