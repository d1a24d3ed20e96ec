"""Every Triton kernel with a way to compile it for Hopper, and one for others, without a GPU.

`python -m tests.kernels.sm90 FOLDER [NAME...]` writes NAME.cubin and prints the bytes of shared
memory of each. It needs a process without Triton's interpreter, which tests switch on in theirs.
"""

import importlib.metadata
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.attention import triton_kernels as few_queries
from kernels.attention_step import triton_kernels as step
from kernels.beam_candidates import triton_kernels as beams
from kernels.hard_negatives import triton_kernels as draw
from kernels.itc_loss import triton_gemm, triton_kernels, triton_merge, triton_pack
from kernels.itc_loss.triton_tiles import TILES, tiles_of
from kernels.linear_rows import triton_kernels as few
from kernels.lm_loss import triton_kernels as lm
from kernels.normalise import triton_kernels as normalise
from kernels.nucleus_draw import triton_kernels as nucleus
from kernels.resize import triton_kernels as resize
from kernels.resize.filter import BITS

WIDTH = 256
# What a GPU machine has beside torch 2.11.
OLDER = importlib.metadata.version("triton").startswith("3.6.")
# Bytes of shared memory that a program may take, by architecture: an A100, a card, Hopper.
ROOM = {80: 163 * 1024, 86: 99 * 1024, 90: 227 * 1024}
INTEGERS = {"rows", "queue_size", "width", "span", "stride_n", "stride_e", "group_size", "slices"}
INTEGERS |= {"queries", "keys"} | {f"{t}_{d}" for t in ("query", "key", "value") for d in "bhls"}
INTEGERS |= {"end", "min_length", "size", "pixels", "parts"}
INTEGERS |= {"columns", "first", "vocabulary", "stride", "heads", "length", "padded_rows"}
SPECIAL = {"floor": "fp32", "smoothing": "fp32", "seed": "i64", "out_ptr": "*i64"}
SPECIAL |= {"top_p": "fp32", "penalty": "fp32", "scale": "fp32", "uniforms_ptr": "*fp64"}
SPECIAL |= {"views_ptr": "*u8", "counters_ptr": "*i32", "taps_ptr": "*i32", "told_ptr": "*i64"}
WHOLE = {"ids_ptr", "query_ids_ptr", "key_ids_ptr", "queue_ids_ptr", "group_keys_ptr"}
WHOLE |= {"targets_ptr", "tokens_ptr", "places_ptr", "origins_ptr", "lengths_ptr"}


@dataclass(frozen=True)
class Case:
    """One kernel as it is launched.

    Attributes:
        kernel: the compiled function.
        warps: it is launched with.
        constants: its compile-time values.
        narrow: pointers to the products' dtype; others are float32 or int64.
        dtype: of the products, as Triton writes it.
        even: integers that are multiples of 16 where it counts.
        architecture: that it is compiled for.
    """

    kernel: Any
    warps: int
    constants: dict[str, Any]
    narrow: set[str]
    dtype: str
    even: set[str] = field(default_factory=set)
    architecture: int = 90


def _cases() -> dict[str, Case]:
    cases = {}
    for dtype, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        by = TILES[kind][0]
        tile = {"BLOCK_M": by.rows, "BLOCK_N": by.keys, "BLOCK_E": WIDTH}
        # Features and queue stay float32 before bf16 products.
        cases[f"itc_pack_{dtype}"] = Case(
            triton_pack.itc_pack_kernel, triton_pack.WARPS,
            {"BLOCK_N": by.keys, "BLOCK_E": WIDTH, "stride_n": 1},
            {"rows_ptr", "packed_ptr"}, dtype, {"width", "stride_e"},
        )  # fmt: skip
        cases[f"itc_partials_{dtype}"] = Case(
            triton_kernels.itc_partials_kernel, by.warps,
            tile | {"STEP_E": by.step, "STAGES": by.stages},
            {"rows_ptr", "packed_ptr"}, dtype, {"width"},
        )  # fmt: skip
        cases[f"itc_positives_{dtype}"] = Case(
            triton_kernels.itc_positives_kernel, triton_kernels.POSITIVES_WARPS,
            tile | {"BLOCK_M": triton_kernels.POSITIVES_M}, {"packed_ptr"}, dtype, {"width"},
        )  # fmt: skip
        for flag in (False, True):
            name = f"{dtype}_{'ids' if flag else 'plain'}"
            cases[f"itc_merge_{name}"] = Case(
                triton_merge.itc_merge_kernel, triton_merge.WARPS,
                {"HAS_IDS": flag, "DTYPE": triton_merge.TYPES[kind], "BLOCK_S": 256,
                 "TOGETHER": triton_merge.TOGETHER, "BLOCK_E": WIDTH, "ROWS": triton_merge.ROWS},
                set(), dtype, {"width"},
            )  # fmt: skip
            cases[f"itc_chunk_{name}"] = Case(
                triton_gemm.itc_chunk_kernel, triton_gemm.WARPS,
                {"IN_BATCH": flag, "BLOCK_N": triton_gemm.BLOCK_N},
                {"weights_ptr"}, dtype, {"columns"},
            )  # fmt: skip
            cases[f"hard_negatives_{name}"] = Case(
                draw.hard_negatives_kernel, draw.WARPS,
                {"HAS_IDS": flag, "BLOCK_M": draw.BLOCK_M, "BLOCK_N": draw.BLOCK_N}, set(), dtype,
            )  # fmt: skip
        cases[f"hard_negatives_scores_{dtype}"] = Case(
            draw.hard_negatives_scores_kernel, draw.WARPS,
            {"BLOCK": draw.BLOCK, "BLOCK_E": WIDTH}, {"query_ptr", "keys_ptr"}, dtype, {"width"},
        )  # fmt: skip
        for flag in (False, True):
            cases[f"attention_step_{dtype}_{'origins' if flag else 'plain'}"] = Case(
                step.attention_step_kernel, step.WARPS,
                {"HAS_ORIGINS": flag, "BLOCK_T": 32, "BLOCK_K": 64},
                {"query_ptr", "key_ptr", "value_ptr", "keys_ptr", "values_ptr", "seen_ptr"}, dtype,
                {"width"},
            )  # fmt: skip
        cases[f"lm_loss_{dtype}"] = Case(
            lm.lm_loss_kernel, lm.WARPS,
            {"GRADIENT": True, "BLOCK_T": lm.BLOCK_T, "BLOCK_V": lm.BLOCK_V},
            {"logits_ptr", "bias_ptr"}, dtype, {"stride"},
        )  # fmt: skip
    for kind in ("bf16", "fp32"):
        low = {"weight_ptr", "weight_1_ptr", "weight_2_ptr", "product_ptr"}
        low |= {"bias_ptr", "bias_1_ptr", "bias_2_ptr"}
        tile = {"BLOCK_M": few.BLOCK_M, "BLOCK_N": few.BLOCK_N, "BLOCK_K": few.BLOCK_K}
        cases[f"linear_rows_of_{kind}"] = Case(
            few.linear_rows_kernel, few.WARPS, tile | {"GELU": True, "STAGES": few.STAGES},
            low | ({"x_ptr"} if kind == "bf16" else set()), "bf16", {"width", "columns"},
        )  # fmt: skip
    tile = {"BLOCK_L": few_queries.BLOCK_L, "BLOCK_S": few_queries.BLOCK_S, "BLOCK_K": 64}
    cases["attention_few"] = Case(
        few_queries.attention_few_kernel, few_queries.WARPS, tile | {"STAGES": few_queries.STAGES},
        {"query_ptr", "key_ptr", "value_ptr", "seen_ptr"}, "bf16",
        {"width"} | {f"{t}_{d}" for t in ("query", "key", "value") for d in "bhls"},
    )  # fmt: skip
    for flag in (False, True):
        cases[f"beam_candidates_{'penalty' if flag else 'plain'}"] = Case(
            beams.beam_candidates_kernel, beams.WARPS,
            {"HAS_PENALTY": flag, "COUNT": 6, "PARTS": 32, "LANES": beams.LANES, "BLOCK_L": 32},
            set(), "fp32",
        )  # fmt: skip
    cases["nucleus_draw"] = Case(
        nucleus.nucleus_draw_kernel, nucleus.WARPS, {"PARTS_LOG": 6, "LANES": nucleus.LANES},
        set(), "fp32",
    )  # fmt: skip
    cases["normalise"] = Case(
        normalise.normalise_kernel, normalise.WARPS, {"BLOCK": normalise.BLOCK},
        {"out_ptr"}, "bf16", {"pixels"},
    )  # fmt: skip
    for planar in (False, True):
        cases[f"resize_{'planar' if planar else 'lines'}"] = Case(
            resize.resize_kernel, resize.WARPS,
            {"PLANAR": planar, "BITS": BITS, "TOLD": resize.TOLD, "BLOCK": resize.BLOCK},
            {"in_ptr", "out_ptr"}, "u8",
        )  # fmt: skip
    # The contrast takes tiles by what fits.
    for architecture, features in ((80, 256), (86, 256), (86, 512), (90, 512)):
        by = tiles_of(torch.bfloat16, features, ROOM[architecture])
        tile = {"BLOCK_M": by.rows, "BLOCK_N": by.keys, "BLOCK_E": features}
        cases[f"itc_partials_sm_{architecture}_{features}"] = Case(
            triton_kernels.itc_partials_kernel, by.warps,
            tile | {"STEP_E": by.step, "STAGES": by.stages},
            {"rows_ptr", "packed_ptr"}, "bf16", {"width"}, architecture,
        )  # fmt: skip
    # A launch turns an integer of 1 into a constant, which is another program.
    ones_too = ("itc_pack_bf16", "itc_chunk_fp32_ids", "lm_loss_fp32", "hard_negatives_fp32_ids")
    for name in ones_too:
        ones = {"rows", "group_size", "queue_size", "columns"}
        ones &= set(cases[name].kernel.arg_names)
        constants = cases[name].constants | dict.fromkeys(ones, 1)
        cases[f"{name}_ones"] = replace(cases[name], constants=constants, even=set())
    return cases


CASES = _cases()


def _type(name: str, case: Case) -> str:
    if name in case.constants:
        return "constexpr"
    if name in INTEGERS:
        return "i32"
    if name in case.narrow:
        return f"*{case.dtype}"
    if name in SPECIAL:
        return SPECIAL[name]
    return "*i64" if name in WHOLE else "*fp32"


def compile_case(case: Case) -> Any:
    """Triton's compiled kernel."""
    names = case.kernel.arg_names
    source = ASTSource(
        fn=case.kernel,
        signature={name: _type(name, case) for name in names},
        constexprs={(names.index(name),): value for name, value in case.constants.items()},
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(names)
            if name.endswith("_ptr") or name in case.even
        },
    )
    target = GPUTarget("cuda", case.architecture, 32)
    return triton.compile(source, target=target, options={"num_warps": case.warps})


def cuobjdump() -> Path:
    """The tool that comes inside Triton."""
    found = list(Path(triton.__file__).parent.rglob("cuobjdump*"))
    return next(path for path in found if os.access(path, os.X_OK) and path.is_file())


def main(folder: str, *names: str) -> None:
    """Compile the named cases, or all."""
    for name in names or CASES:
        built = compile_case(CASES[name])
        (Path(folder) / f"{name}.cubin").write_bytes(built.asm["cubin"])
        print(name, built.metadata.shared, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
