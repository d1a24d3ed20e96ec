"""Bias and exact GELU in Triton: one read and one write forward, two reads and one write back.

The way back can write the GELU itself too, for those who have not kept it.
"""

import torch
import triton
import triton.language as tl

BLOCK_M, BLOCK_N, WARPS = 8, 256, 4
# Programs of the backward pass: enough to fill the largest GPU several times over.
PROGRAMS = 1024
ROOT_HALF = tl.constexpr(0.7071067811865476)
DENSITY = tl.constexpr(0.3989422804014327)  # 1 / sqrt(2 pi)


@triton.jit
def bias_gelu_kernel(
    product_ptr, bias_ptr, out_ptr, rows, width, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """gelu(product + bias) of a tile."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = n < width
    mask = (m < rows)[:, None] & n_mask[None, :]
    places = m.to(tl.int64)[:, None] * width + n[None, :]
    bias = tl.load(bias_ptr + n, n_mask, 0.0).to(tl.float32)
    z = tl.load(product_ptr + places, mask, 0.0).to(tl.float32) + bias[None, :]
    out = 0.5 * z * (1.0 + tl.erf(z * ROOT_HALF))
    tl.store(out_ptr + places, out.to(out_ptr.dtype.element_ty), mask)


@triton.jit
def bias_gelu_backward_kernel(
    upstream_ptr,
    product_ptr,
    bias_ptr,
    by_product_ptr,
    by_bias_ptr,
    active_ptr,
    rows,
    width,
    rows_each,
    WITH_ACTIVE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Gradient of a column of tiles, and this program's part of the bias's: [programs, width]."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = n < width
    bias = tl.load(bias_ptr + n, n_mask, 0.0).to(tl.float32)
    first = tl.program_id(1) * rows_each
    last = tl.minimum(first + rows_each, rows)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(first, last, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        mask = (m < last)[:, None] & n_mask[None, :]
        places = m.to(tl.int64)[:, None] * width + n[None, :]
        z = tl.load(product_ptr + places, mask, 0.0).to(tl.float32) + bias[None, :]
        upstream = tl.load(upstream_ptr + places, mask, 0.0).to(tl.float32)
        share = 0.5 * (1.0 + tl.erf(z * ROOT_HALF))
        gradient = upstream * (share + z * DENSITY * tl.exp(-0.5 * z * z))
        tl.store(by_product_ptr + places, gradient.to(by_product_ptr.dtype.element_ty), mask)
        if WITH_ACTIVE:
            tl.store(active_ptr + places, (z * share).to(active_ptr.dtype.element_ty), mask)
        total += gradient
    tl.store(by_bias_ptr + tl.program_id(1) * width + n, tl.sum(total, 0), n_mask)


def tiles(width: int) -> dict[str, int]:
    """Constants of a launch over rows of this width."""
    block = min(BLOCK_N, max(16, triton.next_power_of_2(width)))
    return {"BLOCK_M": BLOCK_M, "BLOCK_N": block, "num_warps": WARPS}


def forward(product: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """gelu(product [..., N] + bias [N]) in the product's dtype."""
    product = product.contiguous()
    out = torch.empty_like(product)
    width = product.shape[-1]
    rows = product.numel() // width
    if rows:
        settings = tiles(width)
        grid = (triton.cdiv(rows, BLOCK_M), triton.cdiv(width, settings["BLOCK_N"]))
        bias_gelu_kernel[grid](product, bias.contiguous(), out, rows, width, **settings)
    return out


def backward(
    upstream: torch.Tensor, product: torch.Tensor, bias: torch.Tensor, *, with_active: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of the product and of the bias, and what `forward` gave where it is asked for."""
    upstream, product = upstream.contiguous(), product.contiguous()
    by_product = torch.empty_like(product)
    active = torch.empty_like(product) if with_active else None
    width = product.shape[-1]
    rows = product.numel() // width
    settings = tiles(width)
    columns = triton.cdiv(width, settings["BLOCK_N"])
    parts = max(1, min(PROGRAMS // columns, triton.cdiv(rows, 4 * BLOCK_M)))
    rows_each = BLOCK_M * triton.cdiv(triton.cdiv(rows, BLOCK_M), parts)
    by_bias = torch.empty(parts, width, device=product.device, dtype=torch.float32)
    bias_gelu_backward_kernel[(columns, parts)](
        upstream,
        product,
        bias.contiguous(),
        by_product,
        by_bias,
        by_product if active is None else active,
        rows,
        width,
        rows_each,
        WITH_ACTIVE=with_active,
        **settings,
    )
    return by_product, by_bias.sum(0).to(bias.dtype), active
