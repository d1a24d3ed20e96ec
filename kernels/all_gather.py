"""Features of all ranks."""

import torch
import torch.distributed as dist


@torch.no_grad()
def all_gather(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenate a tensor of every rank along the first dimension, in rank order; no gradient.

    Args:
        tensor: [B, ...], of the same shape on every rank.

    Returns:
        [W * B, ...]; the tensor itself where there is one process.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, tensor.contiguous())
    return torch.cat(gathered)
