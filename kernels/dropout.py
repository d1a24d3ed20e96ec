"""Dropout whose numbers a CPU draws five times as fast as PyTorch's own."""

import torch
import torch.nn.functional as F

# Of a number drawn for each element.
BITS = 16


def dropout(x: torch.Tensor, probability: float) -> torch.Tensor:
    """Elements of x, some of them 0 and the others larger, so that the mean stays (Srivastava et
    al. 2014, JMLR 15).

    PyTorch on a CPU draws a double for every element, one after the other; with that it would take
    a twentieth of a training step. Here 64 bits decide on four of them. Draws are of PyTorch's
    generator either way, so they are repeated and resumed as all others.

    Args:
        x: of any shape.
        probability: of dropping one, in [0, 1); on a CPU the nearest multiple of 2**-16 there.

    Returns:
        A new tensor like x, or x if nothing can be dropped.

    Raises:
        ValueError: another probability.
    """
    if not 0 <= probability < 1:
        raise ValueError(f"dropout: probability {probability} out of range [0, 1)")
    if not probability:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, probability)
    dropped = min(round(probability * 2**BITS), 2**BITS - 1)
    words = torch.empty(-(-x.numel() * BITS // 64), dtype=torch.int64).random_(-(2**63), None)
    drawn = words.view(torch.int16)[: x.numel()].view(x.shape)
    factors = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(drawn, dropped - 2 ** (BITS - 1), out=factors)
    return x * factors.mul_(2**BITS / (2**BITS - dropped))
