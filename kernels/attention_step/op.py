"""A token a row that attends to the row's tokens so far, whose keys and values are kept."""

import torch

from kernels.attention_step.places import Places
from kernels.attention_step.reference import attention_step_reference
from kernels.backend import choose, fusing_problem

# What one program holds in its registers.
LONGEST, WIDEST = 64, 128


def attention_step_(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: Places,
    *,
    backend: str = "auto",
) -> torch.Tensor:
    """Write a token's key and value where they belong, then attend from it to all up to it.

    Args:
        query: [N, H, K], of the new tokens.
        key: [N, H, K].
        value: [N, H, K].
        keys: [N, H, T, K], contiguous, changed in place; of the query's dtype, or float32.
        values: [N, H, T, K], contiguous, changed in place; in the dtype of the keys.
        places: of the new tokens.
        backend: `triton` (GPU: one launch; T up to 64, K up to 128), `reference` (the definition)
            or `auto`. The kernel gives no gradients.

    Returns:
        [N, H * K], in the dtype of the query.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    rows, heads, length, width = keys.shape
    fit = query.shape == key.shape == value.shape == (rows, heads, width)
    if not fit or values.shape != keys.shape or places.at.shape != (rows,):
        new = sorted({tuple(tensor.shape) for tensor in (query, key, value)})
        raise ValueError(
            f"attention_step_: new ones {new} and places {tuple(places.at.shape)} do not fit "
            f"caches {tuple(keys.shape)} and {tuple(values.shape)}"
        )
    if places.origins is not None and places.origins.shape != (rows, length):
        raise ValueError(
            f"attention_step_: origins {tuple(places.origins.shape)} must be {(rows, length)}"
        )
    if not (keys.is_contiguous() and values.is_contiguous()):
        raise ValueError("attention_step_: caches must be contiguous")
    problem = fusing_problem(query, backend)
    if length > LONGEST or width > WIDEST:
        problem = f"{length} tokens or heads of {width} are more than {LONGEST} and {WIDEST}"
    if torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value, keys, values)):
        problem = "it has no backward pass"
    chosen = choose("attention_step_", backend, {"triton": problem, "reference": None}, query)
    inputs = (query, key, value, keys, values, places)
    if chosen == "reference":
        with torch.autocast(query.device.type, enabled=False):
            return attention_step_reference(*inputs).to(query.dtype)
    from kernels.attention_step import triton_kernels

    return triton_kernels.step(*inputs)
