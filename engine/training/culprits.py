"""Names of the samples that a step which is not finite is put down to."""

import torch

from engine.data.batch import Batch
from engine.data.picture_files import first_of
from engine.runtime import Runtime

NAMED = 8


def culprits(batches: list[Batch], losses: torch.Tensor, runtime: Runtime) -> str:
    """Which samples made a step not finite, as far as it can be seen. Collective, and rare.

    Suspects are the samples of the ranks whose losses are not finite, and where only a gradient
    was not, those of all ranks.
    """
    keys = [key for batch in batches for key in batch.key]
    told = runtime.gather(([] if losses.isfinite().all() else keys, keys))
    for number, what in enumerate(("loss of one of", "one of")):
        found = [key for rank in told for key in rank[number]]
        if found:
            return f"{what}: {first_of(found, NAMED)}"
    return "no samples"
