"""Processes, device and determinism; the same for one process and for many."""

import logging
import os
import socket
import warnings
from dataclasses import dataclass

import torch
import torch.distributed as dist

from engine.config import ConfigError


@dataclass(frozen=True)
class Runtime:
    """Where this process stands.

    Attributes:
        rank: number of this process.
        world_size: processes in all.
        device: that it computes on.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process talks and writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process (one small reduction)."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mean over processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
            tensor /= self.world_size
        return tensor

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()


def start(device: str = "auto") -> Runtime:
    """Join the process group of the launcher, or be the only process.

    Args:
        device: `auto`, `cpu` or `cuda`.

    Raises:
        ConfigError: no GPU where one is asked for.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.ERROR, format="%(levelname)s: %(message)s"
    )
    for noisy in ("DeepSpeed", "deepspeed", "torch.distributed", "filelock"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if rank:
        warnings.simplefilter("ignore")
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ConfigError("device is cuda but no NVIDIA GPU can be used here: set device to cpu")
    if device == "auto":
        device = "cuda" if has_gpu else "cpu"
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda":
        torch.cuda.set_device(local)
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    chosen = torch.device(device, local) if device == "cuda" else torch.device("cpu")
    if not dist.is_initialized():
        if world_size == 1:
            os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
            os.environ["MASTER_PORT"] = str(_free_port())
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    return Runtime(rank, world_size, chosen)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
