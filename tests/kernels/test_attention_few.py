"""Few queries of many keys: no worse than the definition, whatever the strides and lengths."""

import pytest
import torch

from kernels import attention
from kernels.attention.reference import attention_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter multiplies no bfloat16.
LOW = torch.bfloat16 if torch.cuda.is_available() else torch.float16


@pytest.mark.parametrize(
    ("queries", "keys", "width"), [(1, 577, 64), (3, 130, 40), (16, 5, 16), (1, 9, 8)]
)
def test_errors_are_those_of_the_definition(queries: int, keys: int, width: int) -> None:
    generator = torch.Generator().manual_seed(keys)
    batch, heads = 2, 3

    def normal(length: int) -> torch.Tensor:
        """[B, H, length, K], of which heads lie behind one another."""
        made = torch.randn(batch, length, heads, width, generator=generator) * 2
        return made.to(DEVICE, LOW).transpose(1, 2)

    inputs = (normal(queries), normal(keys).contiguous(), normal(keys))
    truth = attention_reference(*(tensor.double() for tensor in inputs), None, 0.0)
    ours, plain = (attention(*inputs, backend=name) for name in ("few", "math"))
    assert ours.shape == truth.shape
    assert ours.dtype == LOW
    errors = [(answer.double() - truth).abs().max() for answer in (ours, plain)]
    assert errors[0] <= 2 * errors[1] + 1e-4


def test_it_says_what_it_does_not_take() -> None:
    few, many = torch.zeros(1, 1, 1, 16).half(), torch.zeros(1, 1, 17, 16).half()
    assert attention(few, many, many).shape == few.shape
    for inputs, settings, why in (
        ((many, many, many), {}, "17 queries of 16"),
        ((many, many, many), {"causal": True}, "no mask"),
        ((few, *[many.expand(3, 1, 17, 16)] * 2), {}, "no rows or heads"),
        ((few, many, many), {"key_mask": torch.ones(1, 17, dtype=torch.bool)}, "no mask"),
        ((few.float(), many.float(), many.float()), {}, "16-bit"),
        ((few.clone().requires_grad_(), many, many), {}, "no backward"),
    ):
        with pytest.raises(RuntimeError, match=why):
            attention(*inputs, backend="few", **settings)
