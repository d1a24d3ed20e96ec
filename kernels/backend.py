"""Which implementation of an op runs: decided once, said once, and forced by name."""

import importlib.util
import logging
import os
from functools import cache

import torch

log = logging.getLogger(__name__)


INSTALLED = importlib.util.find_spec("triton") is not None


@cache
def _announce(op: str, choice: str, device: str) -> None:
    log.info("%s on %s: %s", op, device, choice)


def fusing_problem(tensor: torch.Tensor, backend: str) -> str | None:
    """Why a kernel that joins element-wise operations does not run on this tensor, or None.

    `torch.compile` joins those of the definition itself, with what stands around them.
    """
    if torch.compiler.is_compiling():
        return "torch.compile joins the operations itself"
    if not tensor.is_cuda and backend != "triton":
        return "CPU"
    if tensor.dtype == torch.float64:
        return "it computes in float32"
    return triton_problem(tensor, products=False)


def triton_problem(
    tensor: torch.Tensor, dtype: torch.dtype | None = None, *, products: bool = True
) -> str | None:
    """Why Triton cannot run on this tensor here, or None when it can.

    Args:
        tensor: an input.
        dtype: that the kernel computes in; None for the tensor's own.
        products: whether the kernel multiplies matrices.
    """
    if not INSTALLED:
        return "the package triton is not installed"
    if torch.compiler.is_compiling():
        return None if tensor.is_cuda else "under torch.compile it needs a GPU"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if tensor.device.type != "cuda" and not interpreted:
        return f"tensors are on {tensor.device.type} (TRITON_INTERPRET=1 runs it there, slowly)"
    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        return f"it launches on this thread's GPU, which is not {tensor.device}"
    if interpreted and products and (dtype or tensor.dtype) == torch.bfloat16:
        return "Triton's interpreter does not multiply bfloat16"
    return None


def choose(op: str, wanted: str, problems: dict[str, str | None], tensor: torch.Tensor) -> str:
    """The backend to run.

    Args:
        op: name of the operation, for messages.
        wanted: "auto" or a backend's name.
        problems: per backend, best first, why it cannot run or None.
        tensor: an input, whose device is announced; a program being compiled cannot announce.

    Raises:
        ValueError: unknown name.
        RuntimeError: the wanted one cannot run here.
    """
    if wanted == "auto":
        choice = next(name for name, problem in problems.items() if problem is None)
        if not torch.compiler.is_compiling():
            _announce(op, choice, tensor.device.type)
        return choice
    if wanted not in problems:
        raise ValueError(f"{op}: unknown backend {wanted!r}: choose auto, {', '.join(problems)}")
    if problems[wanted] is not None:
        raise RuntimeError(f"{op}: backend {wanted!r} cannot run here: {problems[wanted]}")
    return wanted
