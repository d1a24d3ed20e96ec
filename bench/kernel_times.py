"""Where a GPU's time goes, kernel by kernel."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

KEPT, NAME = 40, 100
# The first that is found in a kernel's name says what it does.
KINDS = {
    "attention": r"flash|fmha|attention|sdpa|softmax_warp",
    "product": r"gemm|nvjet|cutlass|xmma|splitK|cublas|implicit_convolve",
    "ours": r"bias_gelu|add_norm|adamw_ema|itc_|hard_negative|lm_loss|_kernel$",
    "compiled": r"^triton_",
    "copy": r"[Mm]em(cpy|set)|copy|CatArray|fill",
}


def kernel_times(work: Callable[[], object], runs: int = 3) -> list[dict[str, Any]]:
    """The kernels of one run of `work`, longest first, the shortest summed as `others`.

    Args:
        work: warmed up already.
        runs: that the means are over.

    Returns:
        Of each kernel `name`, `kind`, `calls` and `milliseconds`, for one run.
    """
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(runs):
            work()
        torch.cuda.synchronize()
    rows = [
        {
            "name": event.key[:NAME],
            "kind": kind(event.key),
            "calls": event.count / runs,
            "milliseconds": event.self_device_time_total / 1e3 / runs,
        }
        for event in profiled.key_averages()
        if event.device_type == DeviceType.CUDA
    ]
    rows.sort(key=lambda row: -row["milliseconds"])
    rest = rows[KEPT:]
    sums = {key: sum(row[key] for row in rest) for key in ("calls", "milliseconds")}
    return rows[:KEPT] + ([{"name": "others", "kind": "other", **sums}] if rest else [])


def kind(name: str) -> str:
    """What a kernel of this name does."""
    return next((kind for kind, words in KINDS.items() if re.search(words, name)), "other")


def shares(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds by kind, the most first."""
    kinds = {row["kind"] for row in rows}
    sums = {k: sum(row["milliseconds"] for row in rows if row["kind"] == k) for k in kinds}
    return dict(sorted(sums.items(), key=lambda pair: -pair[1]))
