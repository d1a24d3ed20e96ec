"""Attention: one signature for self, causal and cross attention."""

import torch
import torch.nn.functional as F

from kernels.attention.reference import attention_reference
from kernels.backend import choose

LONGEST_MATERIALISED = 1024


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    causal: bool = False,
    key_mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Scaled dot-product attention.

    A row whose keys are all masked attends to all of them alike under `math` and yields zeros
    under `sdpa`; both are finite, and no caller reads such rows.

    Args:
        query: [B, H, L, K].
        key: [B, H, S, K].
        value: [B, H, S, K].
        causal: position i sees keys up to i; L must equal S.
        key_mask: [B, S] bool, True where a key is seen, or None for all.
        dropout: probability of dropping an attention weight, in [0, 1).
        backend: `sdpa` (PyTorch's fused kernels), `math` (the definition) or `auto`.

    Returns:
        [B, H, L, K].

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
    """
    if query.ndim != 4 or key.shape != value.shape or query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"attention: query {tuple(query.shape)}, key {tuple(key.shape)} and value "
            f"{tuple(value.shape)} must be [B, H, length, K]"
        )
    if causal and query.shape[2] != key.shape[2]:
        raise ValueError(f"attention: causal with {query.shape[2]} queries, {key.shape[2]} keys")
    if key_mask is not None and key_mask.shape != (key.shape[0], key.shape[2]):
        raise ValueError(f"attention: key_mask {tuple(key_mask.shape)} must be [B, S]")
    # On a CPU two products and a softmax beat the fused kernel, whose backward is slow: by 2 to 10
    # times in bf16 at up to 200 tokens (bench/). It stays for lengths whose scores would not fit.
    on_cpu = query.device.type == "cpu" and key.shape[2] <= LONGEST_MATERIALISED
    order = ("math", "sdpa") if on_cpu else ("sdpa", "math")
    chosen = choose("attention", backend, dict.fromkeys(order), query)
    mask = None if key_mask is None else key_mask[:, None, None, :].bool()
    if chosen == "sdpa" and mask is None:
        return F.scaled_dot_product_attention(query, key, value, None, dropout, causal)
    if causal:
        triangle = torch.ones(
            query.shape[2], key.shape[2], dtype=torch.bool, device=query.device
        ).tril()
        mask = triangle if mask is None else mask & triangle
    if chosen == "sdpa":
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)
    with torch.autocast(query.device.type, enabled=False):
        return attention_reference(query, key, value, mask, dropout)
