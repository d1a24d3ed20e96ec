"""Products of few rows in Triton: narrow tiles, so that even one map's columns fill a GPU."""

import torch
import triton
import triton.language as tl

from kernels.linear_rows.reference import Map

BLOCK_M, BLOCK_N, BLOCK_K, WARPS, STAGES = 64, 32, 128, 4, 4
ROOT_HALF = tl.constexpr(0.7071067811865476)


@triton.jit
def linear_rows_kernel(
    x_ptr,
    weight_ptr,
    weight_1_ptr,
    weight_2_ptr,
    bias_ptr,
    bias_1_ptr,
    bias_2_ptr,
    product_ptr,
    rows,
    width,
    columns,
    GELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    """A tile of the product with one of the maps; products lie one after the other."""
    which = tl.program_id(2)
    if which == 1:
        weight_ptr, bias_ptr = weight_1_ptr, bias_1_ptr
    if which == 2:
        weight_ptr, bias_ptr = weight_2_ptr, bias_2_ptr
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)
    m_mask, n_mask = (m < rows)[:, None], (n < columns)[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in tl.range(0, width, BLOCK_K, num_stages=STAGES):
        inside = (start + k < width)[None, :]
        x = tl.load(x_ptr + m[:, None] * width + start + k[None, :], m_mask & inside, 0.0)
        weight = tl.load(weight_ptr + n[:, None] * width + start + k[None, :], n_mask & inside, 0.0)
        total = tl.dot(x.to(weight.dtype), tl.trans(weight), total)
    total += tl.load(bias_ptr + n, n < columns, 0.0).to(tl.float32)[None, :]
    if GELU:
        total = 0.5 * total * (1.0 + tl.erf(total * ROOT_HALF))
    places = (which * rows + m)[:, None] * columns + n[None, :]
    tl.store(
        product_ptr + places,
        total.to(product_ptr.dtype.element_ty),
        m_mask & (n < columns)[None, :],
    )


def products(x: torch.Tensor, maps: tuple[Map, ...], gelu: bool) -> tuple[torch.Tensor, ...]:
    """As `linear_rows`."""
    columns, width = maps[0][0].shape
    rows = x.numel() // width
    shape = (len(maps), *x.shape[:-1], columns)
    out = torch.empty(shape, dtype=maps[0][0].dtype, device=x.device)
    given = [(weight.contiguous(), bias.contiguous()) for weight, bias in maps]
    given += given[:1] * (3 - len(maps))
    if rows:
        tiles = (triton.cdiv(columns, BLOCK_N), triton.cdiv(rows, BLOCK_M), len(maps))
        linear_rows_kernel[tiles](
            x.contiguous(),
            *(weight for weight, _ in given),
            *(bias for _, bias in given),
            out,
            rows,
            width,
            columns,
            GELU=gelu,
            BLOCK_M=BLOCK_M,
            BLOCK_N=BLOCK_N,
            BLOCK_K=BLOCK_K,
            STAGES=STAGES,
            num_warps=WARPS,
        )
    return tuple(out.unbind(0))
