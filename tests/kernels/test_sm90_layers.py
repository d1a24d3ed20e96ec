"""The small kernels of the layers compile for Hopper and keep their values in registers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.sm90 import OLDER, cuobjdump

# Kernel, type of what is low-precision under autocast, and width: ViT-B's, and the widest; of
# attention the length of rows, and the width of a head where that does not matter.
CASES = [
    ("bias_gelu_kernel", "bf16", 3072),
    ("bias_gelu_backward_kernel", "bf16", 3072),
    ("bias_gelu_backward_kernel", "fp32", 3072),
    ("add_norm_kernel", "bf16", 768),
    ("add_norm_kernel", "fp32", 4096),
    ("norm_again_kernel", "bf16", 768),
    ("norm_again_kernel", "fp32", 4096),
    ("add_norm_backward_kernel", "bf16", 768),
    ("add_norm_backward_kernel", "fp32", 768),
    ("add_norm_backward_kernel", "bf16", 4096),
    ("adamw_ema_kernel", "fp32", 0),
    ("attention_joined_kernel", "bf16", 65),
    ("attention_joined_kernel", "bf16", 197),
    ("attention_joined_kernel", "bf16", 256),
    ("attention_joined_backward_kernel", "bf16", 65),
    ("attention_joined_backward_kernel", "bf16", 197),
    ("attention_joined_backward_kernel", "bf16", 256),
    ("attention_streamed_kernel", "bf16", 320),
    ("attention_streamed_kernel", "bf16", 577),
    ("attention_pictures_kernel", "bf16", 64),
    ("attention_pictures_kernel", "fp32", 64),
    ("attention_pictures_backward_kernel", "bf16", 64),
    ("attention_pictures_backward_kernel", "fp32", 64),
    ("attention_rows_kernel", "bf16", 30),
    ("attention_rows_kernel", "bf16", 64),
    ("attention_rows_kernel", "fp32", 30),
    ("attention_rows_backward_kernel", "bf16", 30),
    ("attention_rows_backward_kernel", "bf16", 64),
    ("attention_rows_backward_kernel", "fp32", 30),
    ("picture_tokens_kernel", "bf16", 768),
    ("picture_tokens_kernel", "fp32", 1024),
    ("column_sum_kernel", "bf16", 768),
    ("column_sum_kernel", "fp32", 3072),
]
COMPILE = """
import importlib
import sys

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.parts import TOGETHER

LOW = {"product_ptr", "upstream_ptr", "by_product_ptr", "out_ptr", "branch_ptr", "normed_ptr"}
LOW |= {"by_normed_ptr", "by_branch_ptr", "active_ptr", "x_ptr", "joined_ptr", "by_joined_ptr"}
LOW |= {"narrow_ptr", "by_narrow_ptr", "patches_ptr"}
LOW |= {"query_ptr", "key_ptr", "value_ptr", "by_query_ptr", "by_key_ptr", "by_value_ptr"}
LONG = ("table_ptr", "programs_ptr", "seed_ptr", "order_ptr", "starts_ptr")
WHOLE = ("rows", "width", "rows_each", "heads", "queries", "tokens", "threshold")
WHOLE += ("pictures", "keys", "length")
FOLDERS = {"bias": "bias_gelu", "add": "add_norm", "adamw": "adamw_ema", "column": "linear"}
FOLDERS |= {"attention": "attention_rows", "norm": "add_norm", "picture": "picture_tokens"}
for case in sys.argv[2:]:
    name, kind, width = case.split(",")
    folder, file = FOLDERS[name.partition("_")[0]], "triton_kernels"
    if "pictures" in name:
        folder = "attention_pictures"
        file = "triton_kernels" if name == "attention_pictures_kernel" else "triton_backward"
    if "joined" in name or "streamed" in name:
        folder = "attention_joined"
        file = "triton_backward" if "backward" in name else "triton_kernels"
        file = "triton_streamed" if "streamed" in name else file
    if folder == "add_norm":
        file = "triton_backward" if "backward" in name else "triton_kernels"
    module = importlib.import_module(f"kernels.{folder}.{file}")
    kernel = getattr(module, name)
    if folder == "adamw_ema":
        tiles = {"num_warps": module.WARPS, "BLOCK": module.BLOCK, "COPY": tl.bfloat16}
    elif folder == "attention_rows":
        dtype = torch.bfloat16 if kind == "bf16" else torch.float32
        tiles = module.tiles((int(width), int(width)), 64, dtype)
        tiles |= {"CAUSAL": True, "DROPOUT": True}
    elif folder == "attention_joined":
        tiles = module.constants(int(width), 12, 64)
    elif folder == "attention_pictures":
        dtype = torch.bfloat16 if kind == "bf16" else torch.float32
        tiles = module.tiles(197, int(width), dtype) | {"DROPOUT": True}
    elif folder == "picture_tokens":
        tiles = module.tiles(int(width))
    elif folder == "linear":
        tiles = {"BLOCK_M": module.BLOCK_M, "BLOCK_N": module.BLOCK_N, "num_warps": module.WARPS}
        tiles["TOGETHER"] = module.PARTS
    elif folder == "add_norm":
        tiles = (module.constants if "backward" in name else module.tiles)(int(width))
    else:
        tiles = module.tiles(int(width), module.BACKWARD if "backward" in name else module.FORWARD)
    options = {name: tiles.pop(name) for name in ("num_warps", "num_stages") if name in tiles}
    constants = tiles | {"HAS_TOTAL": True, "HAS_BRANCH": kind == "bf16", "ALIGNED": True}
    constants |= dict.fromkeys(("HAS_NARROW", "IN_PARTS"), kind == "bf16")
    constants |= {"WITH_ACTIVE": kind == "bf16"}
    constants["EXACT"] = kind == "fp32"
    constants["HAS_COLUMNS"] = constants["ADDS"] = True
    constants.setdefault("DROPOUT", folder == "add_norm")
    constants.setdefault("TOGETHER", TOGETHER)
    constants = {k: v for k, v in constants.items() if k in kernel.arg_names}
    signature = {}
    for argument in kernel.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument.endswith("_ptr"):
            signature[argument] = "*" + (kind if argument in LOW else "fp32")
            if argument in LONG or argument.endswith(("first_ptr", "length_ptr")):
                signature[argument] = "*i64"
            elif argument in ("word_ptr", "counters_ptr"):
                signature[argument] = "*i32"
        else:
            whole = argument in WHOLE or argument.endswith("stride")
            signature[argument] = "i32" if whole else "fp32"
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(kernel.arg_names)
        if n.endswith(("_ptr", "_stride")) or n == "width"
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=aligned)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    for kind in ("cubin", "ptx"):
        content = built.asm[kind]
        content = content.encode() if isinstance(content, str) else content
        open(f"{sys.argv[1]}/{case}.{kind}", "wb").write(content)
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, in one process of its own: this one runs Triton as an interpreter."""
    folder = tmp_path_factory.mktemp("sm90")
    cases = [",".join(map(str, case)) for case in CASES]
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(folder), *cases],
        cwd=Path(__file__).resolve().parents[2],
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        timeout=1100,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize(("kernel", "kind", "width"), CASES)
def test_compiles_for_sm_90_without_spills(
    kernel: str, kind: str, width: int, compiled: Path
) -> None:
    path = compiled / f"{kernel},{kind},{width}.cubin"
    command = [str(cuobjdump()), "--dump-resource-usage", str(path)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    stack, local = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("STACK", "LOCAL"))
    assert (stack, local) == (0, 0), usage
    # Sixteen bytes a thread and access: what is memory-bound must not read in small pieces.
    reads = r"ld\.global\S*\.v4\.b32|cp\.async\.cg\S* .*0x10,"
    assert re.search(reads, path.with_suffix(".ptx").read_text())


# By kernel and width: threads of a program, and how many of them a processor holds.
TOGETHER = {
    ("column_sum_kernel", 768): (128, 4),
    ("column_sum_kernel", 3072): (128, 4),
    ("bias_gelu_backward_kernel", 3072): (128, 8),
    ("add_norm_backward_kernel", 768): (256, 2),
    ("attention_joined_kernel", 197): (128, 3),
    ("attention_joined_backward_kernel", 197): (128, 2),
}


@pytest.mark.parametrize(
    ("kernel", "kind", "width"), [case for case in CASES if (case[0], case[2]) in TOGETHER]
)
def test_several_programs_fit_a_processor(
    kernel: str, kind: str, width: int, compiled: Path
) -> None:
    """Their sums of parts read many at once, which must not cost the passes before registers."""
    threads, programs = TOGETHER[kernel, width]
    path = compiled / f"{kernel},{kind},{width}.cubin"
    command = [str(cuobjdump()), "--dump-resource-usage", str(path)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert programs * threads * int(re.search(r"REG:(\d+)", usage)[1]) <= 64 * 1024


@pytest.mark.parametrize(
    ("kernel", "kind", "width"), [case for case in CASES if "add_norm" in case[0]]
)
def test_random_words_are_drawn_for_four_columns_at_once(
    kernel: str, kind: str, width: int, compiled: Path
) -> None:
    """Philox takes two long products a round, of which there are seven.

    Triton 3.6 makes two more of addresses.
    """
    numbers = 4 if "backward" in kernel else 16
    code = (compiled / f"{kernel},{kind},{width}.ptx").read_text()
    most = 14 * numbers // 4 + (2 if OLDER else 0)
    assert 7 < len(re.findall(r"mul\.(hi|wide)\.u32", code)) <= most


@pytest.mark.parametrize(
    ("kernel", "kind", "width"), [case for case in CASES if "joined" in case[0]]
)
def test_products_are_those_of_four_warps(
    kernel: str, kind: str, width: int, compiled: Path
) -> None:
    """Hopper's other products, of one warp, reach half its speed."""
    code = (compiled / f"{kernel},{kind},{width}.ptx").read_text()
    assert "wgmma.mma_async" in code and "mma.sync" not in code
