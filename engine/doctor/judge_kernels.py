"""What is wrong with GPUs, and with what computes and talks on them; how to mend it."""

from collections.abc import Iterator
from typing import Any

from engine.findings import Finding, error, warning

Facts = dict[str, Any]
NO_GROUPS = "PyTorch's process groups do not work here: install it anew"


def pytorch(facts: Facts, found: Facts) -> Iterator[Finding]:
    """PyTorch against the driver."""
    if (facts["driver"] or facts["driver_loaded"]) and not facts["cuda"]:
        build, visible = facts["cuda_build"], facts["visible"]
        what = f"was built for CUDA {build}" if build else "is a build for CPUs"
        mend = "update the driver" if build else "bash launch/install.sh installs one for CUDA"
        if build and visible is not None:
            named = f"CUDA_VISIBLE_DEVICES, which is {visible!r}"
            mend = f"unset or correct {named}; where that is right, {mend}"
        yield warning(
            "gpu_unused",
            f"there is a driver for NVIDIA GPUs, but this PyTorch {what} and finds none: {mend}",
        )


def triton_version(facts: Facts, found: Facts) -> Iterator[Finding]:
    """Triton against PyTorch."""
    if not facts["fits"] and facts["version"]:
        yield warning(
            "triton_version",
            f"triton {facts['version']} is not {facts['asked']}, for which this PyTorch was built: "
            f"pip install 'triton{facts['asked']}'",
        )


def gpus(facts: list[Facts], found: Facts) -> Iterator[Finding]:
    """Each GPU against what runs ask of one."""
    built = {name.removeprefix("sm_") for name in found["torch"]["facts"]["architectures"]}
    for number, gpu in enumerate(facts):
        major, minor = gpu["capability"].split(".")
        same = any(name.rstrip("af")[:-1] == major for name in built)
        if built and not same:
            yield warning(
                "gpu_architecture",
                f"GPU {number} ({gpu['name']}) has compute capability {major}.{minor} and PyTorch "
                f"was built for {', '.join(sorted(built))}: install a build for it",
            )
        if int(major) < 8:
            yield warning(
                "gpu_old",
                f"GPU {number} ({gpu['name']}) has no bf16 products and no flash attention: set "
                "precision to fp32, or take a GPU from Ampere on",
            )
        if gpu["free_gib"] < 0.8 * gpu["memory_gib"]:
            yield warning(
                "gpu_busy",
                f"GPU {number}: {gpu['free_gib']:g} of {gpu['memory_gib']:g} GiB are free: end "
                "what else runs there, or name others in CUDA_VISIBLE_DEVICES",
            )


def collectives(facts: Facts, found: Facts) -> Iterator[Finding]:
    """What ranks talk over."""
    if not facts["gloo"]["works"]:
        line = f"gloo does not work: {facts['gloo']['why']}; {NO_GROUPS}"
        yield error("gloo", line)
    if found["gpus"]["facts"] and not facts["nccl"]["works"]:
        yield error(
            "nccl",
            f"NCCL does not work: {facts['nccl']['why']}; NCCL_DEBUG=INFO says more",
        )


def operations(found: Facts) -> Iterator[Finding]:
    """Backends that run elsewhere and fail here in another way than by saying why not."""
    for kind in ("attention", "triton"):
        for name, outcome in found[kind].items():
            problem = outcome["problem"] or ""
            if problem.startswith("crashed") or "its answer is wrong" in problem:
                yield warning(
                    "kernel_broken",
                    f"{kind} {name}: {problem}: do not force this backend; is its package built "
                    "for this PyTorch?",
                )
    if found["gpus"]["facts"]:
        broken = [name for name, outcome in found["triton"].items() if outcome["problem"]]
        if broken:
            why = found["triton"][broken[0]]["problem"]
            yield warning(
                "triton_broken",
                f"Triton kernels do not run ({', '.join(broken)}): {why}; pip install the Triton "
                "that belongs to this PyTorch, and a C++ compiler",
            )
