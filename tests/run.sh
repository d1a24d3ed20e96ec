#!/usr/bin/env bash
# Install what the suite needs and run all of it, style checks first:
#   bash tests/run.sh            everything
#   bash tests/run.sh -k golden  a part; words go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."

bash launch/install.sh
# METEOR's own program (100 MB), which ours must equal; only that score needs it.
.venv/bin/python -m pip --disable-pip-version-check --quiet install --no-deps "pycocoevalcap==1.2"
# OpenCV (60 MB), by which the original augments: what the loader is measured against is tested too.
.venv/bin/python -m pip --disable-pip-version-check --quiet install --no-deps \
  "$(grep '^opencv' bench/peers.txt)"
# DALI (460 MB), of which the suite runs the CPU operators: what it requires for a GPU is left out.
.venv/bin/python -m pip --disable-pip-version-check --quiet install --no-deps \
  "nvidia-dali-cuda120==2.4.0" "nvidia-nvimgcodec-cu12==0.9.0.20" "optree==0.20.0" \
  "astunparse==1.6.3" "gast==0.7.0" "six==1.17.0"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
# One thread a process: what is compared bit by bit must not depend on the machine's cores.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
exec .venv/bin/python -m pytest --numprocesses 2 --dist loadgroup --durations 15 "$@"
