"""Linear maps of few rows: several of the same rows in one launch."""

import torch

from kernels.backend import choose, triton_problem
from kernels.linear_rows.reference import Map, linear_rows_reference

# More of them fill a GPU with the library's products; and so many maps a launch has room for.
MOST_ROWS, MOST_MAPS = 256, 3


def linear_rows(
    x: torch.Tensor, *maps: Map, gelu: bool = False, backend: str = "auto"
) -> tuple[torch.Tensor, ...]:
    """x W^T + b for each weight and bias, for inference: what a decoded token's layers begin with.

    The kernel casts rows to the weights' dtype while it reads them, and does not round between a
    product and its GELU.

    Args:
        x: [..., I].
        maps: one to three weights [O, I] and biases [O].
        gelu: with the exact GELU after them.
        backend: `triton` (GPU: 16-bit weights, up to 256 rows, no gradients), `reference` (the
            definition) or `auto`.

    Returns:
        [..., O] of each map, in the weights' dtype or autocast's.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    shapes = {(tuple(weight.shape), tuple(bias.shape)) for weight, bias in maps}
    columns, width = maps[0][0].shape
    if shapes != {((columns, width), (columns,))} or x.shape[-1] != width or len(maps) > MOST_MAPS:
        raise ValueError(
            f"linear_rows: x {tuple(x.shape)} and {len(maps)} maps {sorted(shapes)} must be "
            f"[..., I] and at most {MOST_MAPS} of [O, I] and [O]"
        )
    problems = {"triton": few_rows_problem(x, maps, backend), "reference": None}
    if choose("linear_rows", backend, problems, x) == "reference":
        return linear_rows_reference(x, maps, gelu)
    from kernels.linear_rows import triton_kernels

    return triton_kernels.products(x, maps, gelu)


def few_rows_problem(x: torch.Tensor, maps: tuple[Map, ...], backend: str) -> str | None:
    """Why the kernel does not run on these rows and maps, or None."""
    if torch.compiler.is_compiling():
        return "torch.compile joins the operations itself"
    if not x.is_cuda and backend != "triton":
        return "CPU"
    kinds = {tensor.dtype for pair in maps for tensor in pair}
    names = ", ".join(sorted(map(str, kinds)))
    if len(kinds) > 1 or not kinds <= {torch.bfloat16, torch.float16}:
        return f"it takes weights of one 16-bit kind, not {names}"
    if x.numel() > MOST_ROWS * x.shape[-1]:
        return f"more than {MOST_ROWS} rows"
    tensors = (x, *(tensor for pair in maps for tensor in pair))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "it has no backward pass"
    return triton_problem(x, maps[0][0].dtype)
