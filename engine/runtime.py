"""Processes, device and determinism; the same for one process and for many."""

import ctypes
import logging
import os
import signal
import warnings
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from engine.config import ConfigError
from engine.training.signals import SIGNALS, StopRequest

# Longer than anything that one process may do while the others wait for it.
PATIENCE = timedelta(days=30)
# Whether this process has been in a group: until then it knows nothing of what others refuse.
has_met = False


@dataclass(frozen=True)
class Runtime:
    """Where this process stands.

    Attributes:
        rank: number of this process.
        world_size: processes in all.
        device: that it computes on.
        control: process group over gloo for what the host decides, so that agreeing does not wait
            for a GPU; None is the default group.
    """

    rank: int
    world_size: int
    device: torch.device
    control: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process talks and writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        return self.sums([int(flag)])[0] > 0

    def sums(self, counts: list[int]) -> list[int]:
        """Each count summed over processes (one small reduction between hosts)."""
        if self.world_size == 1:
            return counts
        totals = torch.tensor(counts)
        dist.all_reduce(totals, group=self.control)
        return totals.tolist()

    def gather(self, thing: Any) -> list[Any]:
        """What every process holds, in rank order, on every process. For rare, small things."""
        if self.world_size == 1:
            return [thing]
        things: list[Any] = [None] * self.world_size
        dist.all_gather_object(things, thing, group=self.control)
        return things

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mean over processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
            tensor /= self.world_size
        return tensor

    def patient(self) -> "Runtime":
        """The same for agreeing after hours in which not every process had work. Collective.

        A process that dies meanwhile is noticed by its closed connection, not by the time.
        """
        if self.world_size == 1:
            return self
        return replace(self, control=dist.new_group(backend="gloo", timeout=PATIENCE))

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()


def start(device: str = "auto", stop: StopRequest | None = None) -> Runtime:
    """Join the process group of the launcher, or be the only process.

    Args:
        device: `auto`, `cpu` or `cuda`.
        stop: ends this process at once where it was asked for before all have joined.

    Raises:
        ConfigError: no GPU where one is asked for.
    """
    here = start_apart(device)
    rank, world_size, device = here.rank, here.world_size, here.device.type
    control = None
    if world_size == 1:
        # No address and no port, which another process could take; DeepSpeed reads the rest.
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    if not dist.is_initialized():
        backend = "nccl" if device == "cuda" else "gloo"
        if world_size == 1:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        else:
            _join(backend, stop)
    if device == "cuda" and world_size > 1:
        control = dist.new_group(backend="gloo")
    return Runtime(rank, world_size, here.device, control)


def _join(backend: str, stop: StopRequest | None) -> None:
    """Wait for all processes. One may never come: its settings were refused, say.

    Meanwhile a signal ends this one at once: nothing is there to be saved, and Python would run no
    handler before the wait is over.
    """
    global has_met
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    if stop:
        signal.raise_signal(stop.received)
    dist.init_process_group(backend)
    has_met = True
    for number, handler in handlers.items():
        signal.signal(number, handler)


def start_apart(device: str = "auto", threads: int | None = None) -> Runtime:
    """The same without a process group, for ranks that never wait for each other.

    Args:
        device: `auto`, `cpu` or `cuda`.
        threads: of this process on a CPU; None shares the cores with its neighbours.

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
    device = choose_device(device)
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda":
        # More of them than GPUs share these: one launches while another's host decodes or writes.
        local %= torch.cuda.device_count()
        torch.cuda.set_device(local)
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        keep_memory()
    chosen = torch.device(device, local) if device == "cuda" else torch.device("cpu")
    _share_cores(threads)
    return Runtime(rank, world_size, chosen)


def choose_device(device: str) -> str:
    """`cpu` or `cuda`, in Python also `cuda:1`; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: no GPU where one is asked for, or something else.
    """
    device, has_gpu = str(device), torch.cuda.is_available()
    kind, _, number = device.partition(":")
    if device not in ("auto", "cpu", "cuda") and (kind != "cuda" or not number.isdecimal()):
        raise ConfigError(f"device is {device!r}: choose auto, cpu or cuda")
    if kind == "cuda" and not has_gpu:
        problem = "no NVIDIA GPU can be used here: set device to cpu"
        raise ConfigError(f"device is {device} but {problem}")
    if number and int(number) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"device is {device} but there are {count} GPUs, from cuda:0 on")
    if number and int(number) != (current := torch.cuda.current_device()):
        raise ConfigError(
            f"device is {device} but this process's GPU is cuda:{current}: call "
            f"torch.cuda.set_device({number}) before, or set CUDA_VISIBLE_DEVICES"
        )
    return ("cuda" if has_gpu else "cpu") if device == "auto" else device


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _share_cores(threads: int | None) -> None:
    """Processes of one machine share its cores, unless the user said how many threads to take."""
    if threads:
        torch.set_num_threads(threads)
        return
    # The first name is the DeepSpeed launcher's, the second torchrun's.
    neighbours = os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or "1"
    if "OMP_NUM_THREADS" not in os.environ and int(neighbours) > 1:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(neighbours)))


def keep_memory() -> None:
    """Make the C library keep freed memory for the next tensor instead of giving it back.

    It maps every block above 32 MiB anew and drops it when freed; touching fresh pages then takes a
    tenth of an fp32 step and a quarter of one in bf16 (LOG.md). Where the C library is not GNU's,
    nothing is changed.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        # Numbers of mallopt(3): blocks up to 1 GiB are kept, and -1 is however many there are.
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, -1)
