"""The best ways in which the beams of a picture go on."""

import torch

from kernels.backend import choose, fusing_problem
from kernels.beam_candidates.reference import Candidates, beam_candidates_reference

# Logits that one program holds in its registers, and candidates a beam that it looks for.
WIDEST, MOST = 2**15, 32


def beam_candidates(
    logits: torch.Tensor,
    running: torch.Tensor,
    ids: torch.Tensor,
    lengths: torch.Tensor,
    *,
    end: int,
    min_length: int,
    penalty: float,
    backend: str = "auto",
) -> Candidates:
    """Of all next tokens of a picture's R beams the 2 R of the highest log-probability.

    Candidates alike are in any order, as those of `topk`.

    Args:
        logits: [S * R, V] float32.
        running: [S, R] float32, sums of log-probabilities so far, which the next one is added to.
        ids: [S * R, L], see `shaped`.
        lengths: [S * R], how many of the ids count, at least one.
        end: token that ends a caption.
        min_length: tokens that come before it, at least.
        penalty: of tokens that are there already; at least 1, which does nothing.
        backend: `triton` (GPU: one pass over the logits; V up to 32,768), `reference` (the
            definition) or `auto`.

    Returns:
        Of the best first: scores [S, 2 R], beams [S, 2 R] and tokens [S, 2 R].

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    rows = running.numel()
    fitting = running.ndim == logits.ndim == ids.ndim == 2 and lengths.shape == (rows,)
    if not fitting or len(logits) != rows or len(ids) != rows:
        raise ValueError(
            f"beam_candidates: logits {tuple(logits.shape)}, running {tuple(running.shape)}, ids "
            f"{tuple(ids.shape)} and lengths {tuple(lengths.shape)} must be [S R, V], [S, R], "
            "[S R, L] and [S R]"
        )
    problem = fusing_problem(logits, backend)
    if logits.shape[1] > WIDEST or 2 * running.shape[1] > min(MOST, logits.shape[1]):
        problem = f"{running.shape[1]} beams of {logits.shape[1]} tokens do not fit a program"
    if {logits.dtype, running.dtype} != {torch.float32}:
        problem = f"it takes float32, not {logits.dtype} and {running.dtype}"
    chosen = choose("beam_candidates", backend, {"triton": problem, "reference": None}, logits)
    settings = {"end": end, "min_length": min_length, "penalty": penalty}
    inputs = (logits, running, ids, lengths)
    if chosen == "reference":
        return beam_candidates_reference(*inputs, **settings)
    from kernels.beam_candidates import triton_kernels

    return triton_kernels.candidates(*inputs, **settings)
