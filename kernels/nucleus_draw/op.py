"""A token a row, drawn from the nucleus of its distribution."""

import torch

from kernels.backend import choose, fusing_problem
from kernels.nucleus_draw.reference import best_logits, inverse_draw, nucleus_probabilities

# What one program holds in its registers.
WIDEST = 2**15


def nucleus_draw(
    logits: torch.Tensor,
    uniforms: torch.Tensor,
    *,
    top_p: float,
    top_k: int = 0,
    backend: str = "auto",
) -> torch.Tensor:
    """Draw from the fewest tokens that hold `top_p` (Holtzman et al. 2019, arXiv:1904.09751).

    Of tokens alike at the nucleus's edge those of smaller number belong to it. The kernel adds up
    in another order than the definition does: where `top_p` or a number lies within float32's
    rounding of a sum, the one may take the next token where the other does not.

    Args:
        logits: [N, V] float32; -inf forbids a token, not all of a row.
        uniforms: [N] float64 in [0, 1), at most 1 - 2**-32: where the distribution function of the
            nucleus, in the order of token numbers, first exceeds one, its token is drawn.
        top_p: in (0, 1].
        top_k: and from so many at most; 0 sets no limit.
        backend: `triton` (GPU, V up to 32,768: one pass over the row, which is not sorted),
            `reference` (the definition) or `auto`.

    Returns:
        [N] int64.

    Raises:
        ValueError: shapes or dtypes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    if logits.ndim != 2 or not logits.shape[1] or uniforms.shape != logits.shape[:1]:
        raise ValueError(
            f"nucleus_draw: logits {tuple(logits.shape)} and uniforms {tuple(uniforms.shape)} "
            "must be [N, V] and [N]"
        )
    if (logits.dtype, uniforms.dtype) != (torch.float32, torch.float64):
        kinds = f"{logits.dtype} and {uniforms.dtype}"
        raise ValueError(f"nucleus_draw: {kinds} must be float32 logits and float64 uniforms")
    problem = fusing_problem(logits, backend)
    if logits.shape[1] > WIDEST:
        problem = f"rows of {logits.shape[1]} are wider than {WIDEST}"
    chosen = choose("nucleus_draw", backend, {"triton": problem, "reference": None}, logits)
    if chosen == "reference":
        return inverse_draw(nucleus_probabilities(logits, top_p, top_k), uniforms)
    from kernels.nucleus_draw import triton_kernels

    return triton_kernels.draw(best_logits(logits, top_k), uniforms, top_p)
