#!/usr/bin/env bash
# Measure against the original BLIP and other peers; figures go to bench/results:
#   bash bench/run.sh [cpu|gpu] [--quick] [--suites work,anchors,step,kernels,layers,captioning,capfilt,rerank,data,safety]
# Golden tests run first; when they fail nothing is measured and the exit code is 2.
# Or all downstream tasks on small real data, tuned and untuned; it goes on where it was stopped:
#   bash bench/run.sh tasks [--output_dir runs/tasks] [--tasks vqa nlvr] [--seeds 0 1 2]
set -euo pipefail
cd "$(dirname "$0")/.."

bash launch/install.sh
export TOKENIZERS_PARALLELISM=false
if [[ ${1:-} == tasks ]]; then exec .venv/bin/python -m bench.tasks "${@:2}"; fi
# Peers are no part of the engine: one that cannot be installed is left out, and the run says so.
# Without their dependencies, so that none brings another torch.
for peer in $(<bench/peers.txt); do
  if [[ $peer == @(liger-kernel|cut-cross-entropy)* ]] && ! nvidia-smi -L >/dev/null 2>&1; then continue; fi
  .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps "$peer" ||
    echo "not installed: $peer"
done
exec .venv/bin/python -m bench.main "$@"
