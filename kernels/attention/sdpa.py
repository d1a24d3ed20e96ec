"""PyTorch's own attention kernels, one of them by name or whichever it picks itself."""

import inspect
import warnings

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

KINDS = {
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa_math": SDPBackend.MATH,
}


def problem(name: str, query: torch.Tensor) -> str | None:
    """Why the kernel cannot run, as far as it shows before it is called; `attend` says the rest."""
    if name in ("sdpa_cudnn", "sdpa_efficient") and not query.is_cuda:
        return f"it needs an NVIDIA GPU and tensors are on {query.device.type}"
    return None


def attend(
    name: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    causal: bool,
    key_mask: torch.Tensor | None,
    dropout: float,
) -> torch.Tensor:
    """As `attention`, by one of `KINDS` or, as `sdpa`, by PyTorch's choice.

    Raises:
        RuntimeError: the named kernel does not take these inputs, with PyTorch's reasons.
    """
    mask = None if key_mask is None else key_mask[:, None, None, :].bool()
    if mask is not None and causal:
        mask = mask & triangle(query, key)
        causal = False
    if name == "sdpa":
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, causal)
    try:
        with sdpa_kernel(KINDS[name]):
            return F.scaled_dot_product_attention(query, key, value, mask, dropout, causal)
    except RuntimeError as error:
        if not str(error).startswith(("No available kernel", "No viable backend")):
            raise
        reasons = _reasons(name, query, key, value, mask, dropout, causal)
        raise RuntimeError(f"attention: backend {name!r} cannot run here: {reasons}") from None


def triangle(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """[L, S] bool, True where a query sees a key up to its own place."""
    shape = query.shape[-2], key.shape[-2]
    return torch.ones(shape, dtype=torch.bool, device=query.device).tril()


def _reasons(name: str, *inputs: object) -> str:
    """What PyTorch warns of when it refuses; each place warns once only unless it is asked."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            with sdpa_kernel(KINDS[name]):
                F.scaled_dot_product_attention(*inputs)
        except RuntimeError as error:
            said = [str(warning.message).partition(" (Triggered")[0] for warning in told]
            return " ".join(line for line in said if not line.endswith("because:")) or str(error)
    return "PyTorch refused the kernel once"


def packed_problem(query_THK: torch.Tensor, dropout: float) -> str | None:
    """Why PyTorch's kernel for packed sequences (`torch.nn.attention.varlen`) cannot run."""
    if not query_THK.is_cuda:
        return f"it needs an NVIDIA GPU and tensors are on {query_THK.device.type}"
    if query_THK.dtype not in (torch.float16, torch.bfloat16):
        return f"it takes float16 and bfloat16, not {str(query_THK.dtype)[6:]}"
    if dropout:
        return "it has no dropout"
    return None


def attend_packed(
    query_THK: torch.Tensor,
    key_SHK: torch.Tensor,
    value_SHK: torch.Tensor,
    starts: tuple[torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
    *,
    causal: bool,
) -> torch.Tensor:
    """As `attention_packed`, by PyTorch's flash kernel for packed sequences."""
    from torch.nn.attention.varlen import varlen_attn

    # PyTorch 2.10 has a switch for causal attention, later ones a window.
    windowed = "window_size" in inspect.signature(varlen_attn).parameters
    settings = {"window_size": (-1, 0)} if windowed else {"is_causal": True}
    inputs = (query_THK, key_SHK, value_SHK, *starts, *longest)
    return varlen_attn(*inputs, **(settings if causal else {}))
