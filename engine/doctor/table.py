"""A machine as a page of 80 columns."""

import textwrap
from collections.abc import Iterator
from typing import Any

from engine.findings import Finding

WIDTH, LABEL = 79, 17


def page(found: dict[str, Any], findings: list[Finding]) -> str:
    """Everything that a person wants to know of a machine, what is wrong last.

    Args:
        found: from `examine`.
        findings: from `judge`.
    """
    lines = []
    for label, value in _rows(found):
        body = textwrap.wrap(value, WIDTH - LABEL) or [""]
        lines.append(f"{label:<{LABEL}}{body[0]}")
        lines += [" " * LABEL + more for more in body[1:]]
    lines.append("")
    for finding in findings:
        lines += textwrap.wrap(str(finding), WIDTH, subsequent_indent="  ")
    if not findings:
        lines.append("nothing wrong was found")
    return "\n".join(lines)


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    facts = {name: outcome.get("facts") for name, outcome in found.items()}
    for name, write in WRITERS.items():
        if facts.get(name) is None:
            yield name, f"unknown: {found.get(name, {}).get('problem')}"
        else:
            yield name, write(facts[name])
    for kind in ("attention", "triton"):
        works = [name for name, outcome in found[kind].items() if outcome["problem"] is None]
        yield f"{kind} runs", ", ".join(works) or "nothing"
        for why, names in _by_problem(found[kind]).items():
            yield "  does not", f"{', '.join(names)}: {why}"
    for name, package in (facts.get("optional") or {}).items():
        useless = package.get("for_gpus") and facts.get("gpus") == []
        if not package["active"] and not useless:
            yield "not installed", f"{name} ({package['gives']}): {package['mend']}"


def _by_problem(outcomes: dict[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        if outcome["problem"] is not None:
            why = outcome["problem"].partition(" cannot run here: ")[2] or outcome["problem"]
            found.setdefault(why, []).append(name)
    return found


def _processor(facts: dict[str, Any]) -> str:
    share = "" if facts["core_share"] is None else f", time of {facts['core_share']:g}"
    threads = facts["threads_set"] or "not set"
    flags = ", ".join(facts["instructions"]) or "none of note"
    return (
        f"{facts['name']}, {facts['cores']} of {facts['cores_of_machine']} cores{share}; "
        f"OMP_NUM_THREADS {threads}; load {facts['load']:g}; {flags}"
    )


def _memory(facts: dict[str, Any]) -> str:
    limit = "" if facts["limit_gib"] is None else f", container {facts['limit_gib']:g} GiB"
    return (
        f"{facts['available_gib']} of {facts['total_gib']} GiB free{limit}; swap "
        f"{facts['swap_used_gib']} of {facts['swap_gib']} GiB used"
    )


def _limits(facts: dict[str, Any]) -> str:
    inside = "; in a container" if facts["container"] else ""
    return f"/dev/shm {facts['shared_memory_gib']} GiB; {facts['open_files']} open files{inside}"


def _disk(facts: dict[str, Any]) -> str:
    return (
        f"{facts['folder']} ({facts['kind']}): {facts['free_gb']:g} GB free, writes "
        f"{facts['write_mb_s']:g} MB/s with fsync, reads {facts['read_mb_s']:g} MB/s"
    )


def _torch(facts: dict[str, Any]) -> str:
    cuda = f"CUDA {facts['cuda_build']}" if facts["cuda_build"] else "built for CPUs"
    return f"{facts['version']}, {cuda}, cuDNN {facts['cudnn']}, driver {facts['driver']}"


def _gpus(facts: list[dict[str, Any]]) -> str:
    each = (
        f"{gpu['name']} ({gpu['capability']}, {gpu['free_gib']:g} of {gpu['memory_gib']:g} GiB "
        "free)"
        for gpu in facts
    )
    return "; ".join(each) or "none"


def _products(facts: dict[str, Any]) -> str:
    rates = ", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in facts["gflops"].items())
    has = "with" if facts["bf16_instructions"] else "without"
    return (
        f"{rates} ({facts['device']}, {facts['threads']} threads): bf16 {facts['bf16_speedup']:g}x "
        f"as fast, {has} instructions of its own"
    )


def _collectives(facts: dict[str, Any]) -> str:
    return "; ".join(
        f"{name} works" if one["works"] else f"{name}: {one['why']}" for name, one in facts.items()
    )


def _deepspeed(facts: dict[str, Any]) -> str:
    can = [name for name, works in facts["operations"].items() if works]
    return f"{facts['version']} on {facts['accelerator']}; can compile: {', '.join(can) or 'none'}"


def _pillow(facts: dict[str, Any]) -> str:
    forms = ", ".join(form for form, works in facts["formats"].items() if works)
    rate = f"{facts['jpeg_512_a_second']} JPEGs/s of 512 pixels a core"
    others = ", ".join(facts["others"]) or "none"
    return f"Pillow {facts['version']}: {forms}; {rate}; not used: {others}"


WRITERS = {
    "processor": _processor,
    "memory": _memory,
    "limits": _limits,
    "disk": _disk,
    "torch": _torch,
    "gpus": _gpus,
    "products": _products,
    "collectives": _collectives,
    "deepspeed": _deepspeed,
    "pillow": _pillow,
}
