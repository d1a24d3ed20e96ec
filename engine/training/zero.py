"""DeepSpeed's ZeRO 1 and 2 brought to what a step needs of them."""

import torch
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer


def step_on_the_weights(optimizer: DeepSpeedZeroOptimizer) -> None:
    """Have it update this rank's part of the weights where it lies.

    DeepSpeed keeps a float32 copy of the part, for weights of fewer bits, and writes it back
    over them after each update. Ours are float32: with the part in the place of its copy the
    optimizer's own pass writes what is gathered, and what DeepSpeed writes back is the memory
    itself, which PyTorch leaves alone.
    """
    copies = optimizer.single_partition_of_fp32_groups
    parts = optimizer.parallel_partitioned_bit16_groups
    for copy, of_ranks in zip(copies, parts, strict=True):
        copy.data = of_ranks[torch.distributed.get_rank()].data
    optimizer._link_all_hp_params()


def take_hooks_off(optimizer: DeepSpeedZeroOptimizer) -> None:
    """Have a backward pass call nothing of it: where passes are replayed none is called, and what
    hooks allocate while they are recorded belongs to the recording. Before gradients are reduced
    its `setup_buckets` has to be called instead."""
    for hook in optimizer._grad_acc_hooks:
        hook.remove()
