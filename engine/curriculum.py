"""Smaller pictures and shorter texts for the first parts of a run.

Early steps learn nearly as much from small pictures for a fraction of the work (progressive
resizing; Tan and Le 2021, arXiv:2104.00298). What holds is a function of the step alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CurriculumStage:
    """What holds until a step; after the last stage the run's own settings do.

    Args:
        until_step: the first step that is no longer of this stage.
        image_size: side of the square picture in pixels, a multiple of the patch; null keeps
            the run's. Position embeddings are resized on the way, their gradients come back.
        max_tokens: tokens kept of a caption, special tokens included; null keeps the run's.
    """

    until_step: int
    image_size: int | None = None
    max_tokens: int | None = None


def stage_at(stages: Sequence[CurriculumStage], step: int) -> CurriculumStage:
    """The stage that a step belongs to; behind the last one that keeps all of the run's."""
    for stage in stages:
        if step < stage.until_step:
            return stage
    return CurriculumStage(until_step=step + 1)


def curriculum_problem(
    stages: Sequence[CurriculumStage], patch_size: int, max_tokens: int
) -> str | None:
    """`data.curriculum ...: what is wrong` of the first wrong stage, or None.

    Args:
        stages: of the run.
        patch_size: of the network, in pixels.
        max_tokens: of the run.
    """
    before = 0
    for number, stage in enumerate(stages):
        where = f"data.curriculum, stage {number}"
        if stage.until_step <= before:
            return f"{where}: until_step {stage.until_step} must be above {before}"
        size, tokens = stage.image_size, stage.max_tokens
        if size is not None and (size <= 0 or size % patch_size):
            return f"{where}: image_size {size} is not a multiple of the patch of {patch_size}"
        if tokens is not None and not 3 <= tokens <= max_tokens:
            return f"{where}: max_tokens {tokens} must be from 3 to data.max_tokens {max_tokens}"
        before = stage.until_step
    return None
