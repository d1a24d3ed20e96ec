"""What a run takes of its machine, against what there is."""

import importlib.util
import os
import resource
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.config import ConfigError
from engine.machine import core_share, cores, memory_bytes, memory_limit, multiplies_bf16


@dataclass(frozen=True)
class Host:
    """The limits of the machine that the check runs on.

    Attributes:
        cores: that a process may use, a container's share of time included.
        memory: bytes, a container's limit included; None where unknown.
        shared_memory: bytes of /dev/shm; None where there is none.
        open_files: that a process may have.
        bf16: whether matrix products in bfloat16 have instructions of their own.
        gpus: that PyTorch can use.
        gpu_memory: bytes of the smallest of them, 0 without one.
        deepspeed: whether it is installed.
        port: that ranks would meet at.
        port_free: whether nothing listens there.
    """

    cores: int
    memory: int | None
    shared_memory: int | None
    open_files: int
    bf16: bool
    gpus: int
    gpu_memory: int
    deepspeed: bool
    port: int
    port_free: bool

    @classmethod
    def read(cls) -> "Host":
        """This machine.

        Raises:
            ConfigError: MASTER_PORT is no port.
        """
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        facts = [torch.cuda.get_device_properties(number) for number in range(gpus)]
        stated = os.environ.get("MASTER_PORT") or "29500"
        port = int(stated) if stated.isdecimal() else 0
        if not 0 < port < 1 << 16:
            raise ConfigError(f"MASTER_PORT is {stated!r}: set it to a free port, or unset it")
        limits = [size for size in (memory_bytes(), memory_limit()) if size]
        share = core_share()
        return cls(
            cores=max(1, min(cores(), round(share)) if share else cores()),
            memory=min(limits, default=None),
            shared_memory=_shared_memory(),
            open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            bf16=all(one.major >= 8 for one in facts) if gpus else multiplies_bf16(),
            gpus=gpus,
            gpu_memory=min((one.total_memory for one in facts), default=0),
            deepspeed=importlib.util.find_spec("deepspeed") is not None,
            port=port,
            port_free=_is_free(port),
        )


def _shared_memory(place: Path = Path("/dev/shm")) -> int | None:
    try:
        return shutil.disk_usage(place).total
    except OSError:
        return None


def _is_free(port: int) -> bool:
    """Whether a server could listen there."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", port))
        except OSError:
            return False
    return True
