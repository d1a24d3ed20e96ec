"""A training step: ours against the original, in turns."""

import gc

import pytest
import torch

from bench.conftest import Compare, Start
from bench.interleaved import ratio
from bench.kernel_times import kernel_times
from bench.machine import has_bf16
from bench.pairs import pairs
from bench.plan import Plan
from bench.record import Record
from bench.sides import Program
from bench.training import KEEPS_ALL, Original, Ours, original_program, our_program, step_of
from blip_model.config import preset
from blip_model.flops import pretraining_flops

MEAN_TOKENS, TILE_ROWS = 13, 197
OURS_ALONE = 512
# Of a reading: steps of a small network take less, and vary more than the machine's moments do.
LEAST_SECONDS = 1.0
# Steps timed at once, as a run takes them: the host prepares one while the GPU is at another.
IN_A_ROW = 4
Times = dict[str, list[float]]


def test_step_against_the_original(
    start: Start, compare: Compare, plan: Plan, record: Record, setting: tuple[str, int]
) -> None:
    name, count = setting
    given = (preset(name), plan.queue_size, count, plan.device)
    precisions = ["fp32", "bf16"] if has_bf16(plan.device) else ["fp32"]
    more = ["tf32"] if plan.device.type == "cuda" else []
    sides = start(
        Program("the original", original_program, (*given, precisions + more)),
        Program("ours", our_program, (*given, precisions)),
    )
    # The gate of this suite: both begin with the same weights.
    assert sides.pop("original weights")() == sides.pop("ours weights")()
    times = compare(f"step, {name}, batch {count}, {plan.hardware}", sides, LEAST_SECONDS)
    # Without a suffix: what the figures are defined for.
    first = setting == plan.steps[0] and name == "base"
    _keep_ratios(record, times, "" if first else f"_{name}_batch{count}")


def _keep_ratios(record: Record, times: Times, suffix: str) -> None:
    best = times.get("ours bf16", times["ours fp32"])
    for precision in ("fp32", "bf16", "tf32"):
        original = times.get(f"original {precision}")
        if original is None:
            continue
        ours = best if precision == "tf32" else times[f"ours {precision}"]
        record.figure(f"step_time_ratio_{precision}{suffix}", ratio(original, ours))
    if "ours bf16" not in times:
        record.note(
            "this CPU has no bf16 instructions: no bf16 figures, and our best precision is fp32"
        )
    record.figure(f"step_time_ratio_shipped{suffix}", ratio(times["original fp32"], best))


def test_memory_of_our_step_alone(plan: Plan, record: Record) -> None:
    """Peak GPU memory of a large batch, weights and optimizer included."""
    if plan.device.type != "cuda":
        pytest.skip("a CPU keeps no count of the memory that tensors take")
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    config = preset(plan.preset)
    ours = Ours(config, plan.queue_size, plan.device)
    batch = pairs(config, OURS_ALONE, plan.device)
    for _ in range(2):
        ours.step(batch, "bf16")
    peak = torch.cuda.max_memory_allocated() / 2**30
    record.figure(f"peak_memory_gib_batch{OURS_ALONE}{plan.suffix}", peak)


def test_our_step_alone(compare: Compare, plan: Plan, record: Record) -> None:
    """Replayed, as one process runs, and launched kernel by kernel; against the GPU's products."""
    if plan.device.type != "cuda":
        pytest.skip("on a CPU our step is measured beside the original")
    config, count = preset(plan.preset), plan.peer_batch
    ours = Ours(config, plan.queue_size, plan.device, KEEPS_ALL)
    batch = pairs(config, count, plan.device)
    sides = {
        "ours bf16": step_of(ours, batch, "bf16"),
        "ours bf16 eager": lambda: ours.step(batch, "bf16", recorded=False),
    }
    name = f"step, {plan.preset}, batch {count}"
    rows = {who: lambda step=step: [step() for _ in range(IN_A_ROW)] for who, step in sides.items()}
    found = compare(f"{IN_A_ROW} steps, {plan.preset}, batch {count}", rows)
    times = {who: [one / IN_A_ROW for one in seconds] for who, seconds in found.items()}
    ceiling = gemm_ceiling(config.vision_width, count)
    record.figure("gemm_ceiling", ceiling)
    useful = pretraining_flops(config, MEAN_TOKENS) * count / ceiling
    for way, who in (("", "ours bf16"), ("_eager", "ours bf16 eager")):
        end, seconds = f"{way}{plan.suffix}", times[who]
        record.figure(f"images_per_second{end}", ratio([count] * plan.rounds, seconds))
        record.figure(f"mfu{end}", ratio([useful] * plan.rounds, seconds))
    for who, step in sides.items():
        record.kernels[f"{name}, {who}"] = kernel_times(step)


def test_step_against_the_strong_peer(compare: Compare, plan: Plan, record: Record) -> None:
    """Autocast, SDPA, negatives at once, fused AdamW, compiled: what an expert makes of it."""
    if plan.device.type != "cuda":
        record.note("the strong peer (autocast, SDPA, compile) is measured on a GPU only")
        pytest.skip("on a CPU the peer is the original itself")
    config, count = preset(plan.preset), plan.peer_batch
    ours = Ours(config, plan.queue_size, plan.device, KEEPS_ALL)
    batch = pairs(config, count, plan.device)
    peer = Original(ours, strong=True)
    sides = {"strong peer": step_of(peer, batch, "bf16"), "ours bf16": step_of(ours, batch, "bf16")}
    name, sums = f"step, {plan.preset}, batch {count}, strong peer", {}
    times = compare(name, sides)
    faster = ratio(times["strong peer"], times["ours bf16"])
    record.figure(f"step_time_ratio_strong{plan.suffix}", faster)
    # What the GPU alone takes: a slow host makes the peer wait, and not what is replayed.
    for who, step in sides.items():
        rows = record.kernels[f"{name}, {who}"] = kernel_times(step)
        sums[who] = sum(row["milliseconds"] for row in rows)
    alone = sums["strong peer"] / sums["ours bf16"]
    record.figure(f"kernel_time_ratio_strong{plan.suffix}", alone)


def gemm_ceiling(width: int, count: int) -> float:
    """FLOP a second of the network's largest bf16 product, the best of 20: what can be reached."""
    rows = count * TILE_ROWS
    left = torch.randn(rows, width, device="cuda", dtype=torch.bfloat16)
    right = torch.randn(width, 4 * width, device="cuda", dtype=torch.bfloat16)
    seconds = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(10):
            left @ right
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1e4)
    return 2 * rows * width * 4 * width / min(seconds)
