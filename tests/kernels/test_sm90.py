"""Every Triton kernel compiles for Hopper without a GPU, and keeps its values in registers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

COMPILE = """
import sys
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.hard_negatives import triton_kernels as draw
from kernels.itc_loss import triton_kernels as itc

kind, path = sys.argv[2], sys.argv[3]
module, kernel = {
    "itc": (itc, itc.itc_loss_kernel),
    "draw": (draw, draw.hard_negatives_kernel),
}[sys.argv[1].removesuffix("_ids")]
constants = {"HAS_IDS": sys.argv[1].endswith("_ids"), "BLOCK_M": module.BLOCK_M, "BLOCK_E": 256}
if module is itc:
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[kind]
    constants["BLOCK_N"], constants["STEP_E"] = itc.TILES[dtype]
else:
    constants["BLOCK_N"] = module.BLOCK_N
scalars = {"rows", "queue_size", "width", "stride_n", "stride_e", "group_size"}
special = {"floor": "fp32", "seed": "i64", "out_ptr": "*i64", "group_keys_ptr": "*i64"}
signature = {}
for name in kernel.arg_names:
    if name in constants:
        signature[name] = "constexpr"
    elif name in scalars:
        signature[name] = "i32"
    elif name in special:
        signature[name] = special[name]
    elif "ids" in name:
        signature[name] = "*i64"
    elif name in ("query_ptr", "soft_ptr", "keys_ptr", "queue_ptr"):
        signature[name] = "*" + kind
    else:
        signature[name] = "*fp32"
places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
aligned = {
    (i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if n.endswith("_ptr")
}
source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=aligned)
options = {"num_warps": module.WARPS}
built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
open(path, "wb").write(built.asm["cubin"])
print("shared", built.metadata.shared)
"""


def cuobjdump() -> Path:
    """The tool that comes inside Triton."""
    import triton

    found = list(Path(triton.__file__).parent.rglob("cuobjdump*"))
    return next(path for path in found if os.access(path, os.X_OK) and path.is_file())


@pytest.mark.parametrize("kind", ["bf16", "fp32"])
@pytest.mark.parametrize("kernel", ["itc", "itc_ids", "draw", "draw_ids"])
def test_compiles_for_sm_90_without_spills(kernel: str, kind: str, tmp_path: Path) -> None:
    cubin = tmp_path / "kernel.cubin"
    # In a process of its own: this one runs Triton as an interpreter.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, kernel, kind, str(cubin)],
        cwd=Path(__file__).resolve().parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shared = int(re.search(r"shared (\d+)", done.stdout)[1])
    assert shared <= 227 * 1024
    command = [str(cuobjdump()), "--dump-resource-usage", str(cubin)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    stack, local = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("STACK", "LOCAL"))
    assert (stack, local) == (0, 0), usage
