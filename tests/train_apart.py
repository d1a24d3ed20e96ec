"""`launch/pretrain.py` on ranks that each stand in a folder of their own, as on other machines."""

import os
import sys
from pathlib import Path

from launch import pretrain


def main() -> int:
    """Go to this rank's folder below the first word, and train by the others."""
    os.chdir(Path(sys.argv.pop(1)) / os.environ["RANK"])
    return pretrain.main()
