"""The flash-attn packages: generation 2 (Ampere on), 3 (Hopper) and 4 (Hopper and Blackwell).

They come apart: `flash-attn` is `flash_attn.flash_attn_interface`, generation 3 (hopper/ of its
repository) the top-level module `flash_attn_interface`, and `flash-attn-4` is `flash_attn.cute`,
which may be there without generation 2. Calls follow their sources of 2.8, 3.0 and 4.0.0b36.
"""

import importlib
from types import ModuleType

import torch

# Module and lowest compute capability by backend.
PACKAGES = {
    "flash_attn_2": ("flash_attn.flash_attn_interface", (8, 0)),
    "flash_attn_3": ("flash_attn_interface", (9, 0)),
    "flash_attn_4": ("flash_attn.cute", (9, 0)),
}


def problem(name: str, query: torch.Tensor, *, masked: bool, dropout: float) -> str | None:
    """Why a package cannot attend to these inputs here, or None; imports it."""
    module, capability = PACKAGES[name]
    if not query.is_cuda:
        return f"it needs an NVIDIA GPU and tensors are on {query.device.type}"
    if torch.cuda.get_device_capability(query.device) < capability:
        return f"it needs a GPU of compute capability {capability[0]}.{capability[1]}"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"it takes float16 and bfloat16, not {str(query.dtype)[6:]}"
    if masked:
        return "it takes no key_mask: pack the sequences (attention_packed)"
    if dropout and name != "flash_attn_2":
        return "it has no dropout"
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        return f"{module} cannot be imported: {error}"
    return None


def attend(
    name: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """As `attention`; the packages keep heads behind tokens, [B, L, H, K]."""
    inputs = [tensor.transpose(1, 2) for tensor in (query, key, value)]
    settings = {"causal": causal, **_dropout(name, dropout)}
    return _output(_module(name).flash_attn_func(*inputs, **settings)).transpose(1, 2)


def attend_packed(
    name: str,
    query_THK: torch.Tensor,
    key_SHK: torch.Tensor,
    value_SHK: torch.Tensor,
    starts: tuple[torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
    *,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """As `attention_packed`."""
    attended = _module(name).flash_attn_varlen_func(
        query_THK,
        key_SHK,
        value_SHK,
        cu_seqlens_q=starts[0],
        cu_seqlens_k=starts[1],
        max_seqlen_q=longest[0],
        max_seqlen_k=longest[1],
        causal=causal,
        **_dropout(name, dropout),
    )
    return _output(attended)


def _module(name: str) -> ModuleType:
    return importlib.import_module(PACKAGES[name][0])


def _dropout(name: str, dropout: float) -> dict[str, float]:
    return {"dropout_p": dropout} if name == "flash_attn_2" else {}


def _output(result: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Generation 4, and early ones of 3, give the log-sum-exp along unasked."""
    return result[0] if isinstance(result, tuple) else result
