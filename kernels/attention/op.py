"""Attention: one signature for self, causal and cross attention."""

import torch

from kernels.attention import few_queries, flash_attn, flex, sdpa, xformers
from kernels.attention.blocks import attention_by_blocks
from kernels.attention.reference import attention_reference
from kernels.backend import choose

LONGEST_MATERIALISED, FEW_KEYS = 1024, 64
FORCED = (*sdpa.KINDS, *flash_attn.PACKAGES, "xformers", "flex")


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
        backend: `auto`; `few` (GPU, for inference: up to 16 queries in 16 bits, without a mask);
            `math` (the definition); `sdpa` (PyTorch picks among its kernels), or one
            of those by name: `sdpa_flash`, `sdpa_cudnn`, `sdpa_efficient`, `sdpa_math`; the
            packages `flash_attn_2`, `flash_attn_3`, `flash_attn_4` and `xformers`; `flex`.

    Returns:
        [B, H, L, K].

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    _check(query, key, value, causal, key_mask)
    order = ("math", "sdpa") if _materialise(query, key) else ("sdpa", "math")
    plain = key_mask is None and not dropout and not causal
    few = few_queries.problem(query, key, value, plain=plain, forced=backend == "few")
    problems = {"few": few} | dict.fromkeys((*order, *FORCED))
    if backend in FORCED:
        problems[backend] = _problem(backend, (query, key, value), key_mask is not None, dropout)
    chosen = choose("attention", backend, problems, query)
    if chosen == "few":
        return few_queries.attend(query, key, value)
    if chosen in flash_attn.PACKAGES:
        return flash_attn.attend(chosen, query, key, value, causal=causal, dropout=dropout)
    if chosen == "xformers":
        return xformers.attend(query, key, value, causal=causal, dropout=dropout)
    if chosen == "flex":
        return flex.attend(query, key, value, causal=causal, key_mask=key_mask)
    if chosen != "math":
        settings = {"causal": causal, "key_mask": key_mask, "dropout": dropout}
        return sdpa.attend(chosen, query, key, value, **settings)
    mask = None if key_mask is None else key_mask[:, None, None, :].bool()
    if causal:
        triangle = sdpa.triangle(query, key)
        mask = triangle if mask is None else mask & triangle
    with torch.autocast(query.device.type, enabled=False):
        if mask is None and query.device.type == "cpu" and not torch.is_grad_enabled():
            return attention_by_blocks(query, key, value, dropout)
        return attention_reference(query, key, value, mask, dropout)


def _materialise(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether two products and a softmax are the faster way: on a CPU, but not always (bench/).

    A GPU's fused kernels take 64 queries at least: a single one of few keys, as in decoding, has
    no use for them. On a CPU the fused kernel has a slow backward pass and no bf16 products: at up
    to 600 tokens it takes 1.1 to 8 times as long. In fp32 without a backward pass it takes half as
    long, and it stays for lengths whose scores would not fit.
    """
    if query.device.type != "cpu":
        return query.shape[2] == 1 and key.shape[2] <= FEW_KEYS
    if key.shape[2] > LONGEST_MATERIALISED:
        return False
    return torch.is_grad_enabled() or query.dtype != torch.float32


def _problem(
    name: str, inputs: tuple[torch.Tensor, ...], masked: bool, dropout: float
) -> str | None:
    """Why a backend cannot run. Asked of a forced one only: the answer imports its package."""
    if name in flash_attn.PACKAGES:
        return flash_attn.problem(name, inputs[0], masked=masked, dropout=dropout)
    if name == "xformers":
        return xformers.problem(inputs[0], masked=masked)
    if name == "flex":
        return flex.problem(inputs, dropout=dropout)
    return sdpa.problem(name, inputs[0])


def _check(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    causal: bool,
    key_mask: torch.Tensor | None,
) -> None:
    if query.ndim != 4 or key.shape != value.shape or query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"attention: query {tuple(query.shape)}, key {tuple(key.shape)} and value "
            f"{tuple(value.shape)} must be [B, H, length, K]"
        )
    if causal and query.shape[2] != key.shape[2]:
        raise ValueError(f"attention: causal with {query.shape[2]} queries, {key.shape[2]} keys")
    if key_mask is not None and key_mask.shape != (key.shape[0], key.shape[2]):
        raise ValueError(f"attention: key_mask {tuple(key_mask.shape)} must be [B, S]")
