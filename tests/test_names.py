"""`kernels` is also the name of a package on the registry that transformers looks for."""

import importlib.metadata
import subprocess
import sys


def test_our_version_is_not_mistaken_for_the_registry_package() -> None:
    distributions = importlib.metadata.packages_distributions().get("kernels", [])
    assert distributions in ([], ["blip-engine"])
    assert importlib.metadata.version("blip-engine").startswith("0.1.")


def test_transformers_imports_beside_our_kernels() -> None:
    code = "import kernels, transformers; from transformers import BlipForConditionalGeneration"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=500)
