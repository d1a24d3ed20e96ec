"""Bias and exact GELU in Triton: one read and one write forward, two reads and one write back.

Float32 goes through erf. Sixteen-bit products go through a shorter form, wrong by a hundredth of
what their rounding is: erf alone is more instructions than the memory leaves time for.
The way back can write the GELU itself too, for those who have not kept it.
"""

import torch
import triton
import triton.language as tl

from kernels.parts import TOGETHER, counters, ends_last, sum_of_parts

# Rows of a tile forward and backward, columns, and warps: sixteen bytes a thread, twice forward.
# Programs of eight warps take a sixth longer on the way back.
FORWARD, BACKWARD, BLOCK_N, WARPS = 16, 8, 128, 4
# Programs of the backward pass: those of eight that each of the largest GPU's 132 processors holds.
PROGRAMS = 1056
ROOT_HALF = tl.constexpr(0.7071067811865476)
DENSITY = tl.constexpr(0.3989422804014327)  # 1 / sqrt(2 pi)
HALF_LOG2_E = tl.constexpr(0.7213475204444817)  # exp(-z^2 / 2) = 2^(-z^2 log2(e) / 2)
# See `_normal_tail`: of the root, then of the polynomial.
R1, R2 = tl.constexpr(0.664362188), tl.constexpr(0.130738755)
C1, C2 = tl.constexpr(0.143987426), tl.constexpr(0.136226419)
C3, C4 = tl.constexpr(0.0949527117), tl.constexpr(0.124831171)


@triton.jit
def _normal_tail(size):
    """exp(-s^2 / 2), and the factor that makes it the normal distribution's share beyond s >= 0.

    As Abramowitz and Stegun 7.1.26: a polynomial in t = 1 / (1 + p s), times the exponential that
    the density needs too. Theirs errs by 1.5e-7 of 1, which is 4% of the tail near 13; these
    numbers are fitted to the factor itself, erfcx(s / sqrt 2) / 2, and err by 2e-5 of it up to
    s = 14, where float32 ends: a hundredth of bfloat16's rounding, a tenth of float16's. The slope
    of the GELU errs by 5e-6 of 1, more than float16's rounding only next to where it crosses zero.
    Their t = 1 / sqrt(1 + R1 s + R2 s^2) is one instruction where a division is eight.
    """
    square = size * size
    t = tl.rsqrt((size * R1 + 1.0) + square * R2)
    return tl.exp2(square * -HALF_LOG2_E), (((t * C4 + C3) * t + C2) * t + C1) * t


@triton.jit
def bias_gelu_kernel(
    product_ptr,
    bias_ptr,
    out_ptr,
    rows,
    width,
    EXACT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """gelu(product + bias) of a tile."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = n < width
    mask = (m < rows)[:, None] & n_mask[None, :]
    places = m.to(tl.int64)[:, None] * width + n[None, :]
    bias = tl.load(bias_ptr + n, n_mask, 0.0).to(tl.float32)
    z = tl.load(product_ptr + places, mask, 0.0).to(tl.float32) + bias[None, :]
    if EXACT:
        out = 0.5 * z * (1.0 + tl.erf(z * ROOT_HALF))
    else:
        size = tl.abs(z)
        decay, tail = _normal_tail(size)
        out = tl.maximum(z, 0.0) - size * (decay * tail)
    tl.store(out_ptr + places, out.to(out_ptr.dtype.element_ty), mask)


@triton.jit
def bias_gelu_backward_kernel(
    upstream_ptr,
    product_ptr,
    bias_ptr,
    by_product_ptr,
    parts_ptr,
    counters_ptr,
    by_bias_ptr,
    active_ptr,
    rows,
    width,
    rows_each,
    TOGETHER: tl.constexpr,
    EXACT: tl.constexpr,
    WITH_ACTIVE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Gradient of a column of tiles, and of its bias by the last of the column's programs."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = n < width
    bias = tl.load(bias_ptr + n, n_mask, 0.0).to(tl.float32)
    first = tl.program_id(1) * rows_each
    last = tl.minimum(first + rows_each, rows)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    # In stages: reads run ahead through shared memory. The assembler would put that of `upstream`
    # behind all that is computed of z, to save registers, and wait twice a tile.
    for start in tl.range(first, last, BLOCK_M, num_stages=3):
        m = start + tl.arange(0, BLOCK_M)
        mask = (m < last)[:, None] & n_mask[None, :]
        places = m.to(tl.int64)[:, None] * width + n[None, :]
        z = tl.load(product_ptr + places, mask, 0.0).to(tl.float32) + bias[None, :]
        upstream = tl.load(upstream_ptr + places, mask, 0.0).to(tl.float32)
        if EXACT:
            share = 0.5 * (1.0 + tl.erf(z * ROOT_HALF))
            gradient = upstream * (share + z * DENSITY * tl.exp(-0.5 * z * z))
            active = z * share
        else:
            # Of -|z|: share(z) + z density(z) is one minus that of -z.
            size = tl.abs(z)
            decay, tail = _normal_tail(size)
            below = decay * (tail - size * DENSITY)
            gradient = upstream * tl.where(z < 0.0, below, 1.0 - below)
            active = tl.maximum(z, 0.0) - size * (decay * tail)
        tl.store(by_product_ptr + places, gradient.to(by_product_ptr.dtype.element_ty), mask)
        if WITH_ACTIVE:
            tl.store(active_ptr + places, active.to(active_ptr.dtype.element_ty), mask)
        total += gradient
    parts = tl.num_programs(1)
    tl.store(parts_ptr + tl.program_id(1) * width + n, tl.sum(total, 0), n_mask)
    if ends_last(counters_ptr + tl.program_id(0), parts):
        whole = sum_of_parts(parts_ptr, parts, width, n, n_mask, TOGETHER, BLOCK_N)
        tl.store(by_bias_ptr + n, whole, n_mask)


def tiles(width: int, block_m: int) -> dict[str, int]:
    """Constants of a launch over rows of this width."""
    block = min(BLOCK_N, max(16, triton.next_power_of_2(width)))
    return {"BLOCK_M": block_m, "BLOCK_N": block, "num_warps": WARPS}


def forward(product: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """gelu(product [..., N] + bias [N]) in the product's dtype."""
    product = product.contiguous()
    out = torch.empty_like(product)
    width = product.shape[-1]
    rows = product.numel() // width
    if rows:
        settings = tiles(width, FORWARD)
        grid = (triton.cdiv(rows, FORWARD), triton.cdiv(width, settings["BLOCK_N"]))
        exact = product.dtype == torch.float32
        bias_gelu_kernel[grid](product, bias.contiguous(), out, rows, width, exact, **settings)
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
    settings = tiles(width, BACKWARD)
    columns = triton.cdiv(width, settings["BLOCK_N"])
    parts = max(1, min(PROGRAMS // columns, triton.cdiv(rows, 4 * BACKWARD)))
    rows_each = BACKWARD * triton.cdiv(triton.cdiv(rows, BACKWARD), parts)
    partial = torch.empty(parts, width, device=product.device, dtype=torch.float32)
    by_bias = torch.empty(width, device=product.device, dtype=torch.float32)
    bias_gelu_backward_kernel[(columns, parts)](
        upstream,
        product,
        bias.contiguous(),
        by_product,
        partial,
        counters(product.device),
        by_bias,
        by_product if active is None else active,
        rows,
        width,
        rows_each,
        TOGETHER=TOGETHER,
        EXACT=product.dtype == torch.float32,
        WITH_ACTIVE=with_active,
        **settings,
    )
    return by_product, by_bias.to(bias.dtype), active
