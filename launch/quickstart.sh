#!/usr/bin/env bash
# Pretrain a small BLIP on real pairs, evaluate it and write a report, on any machine:
#   bash launch/quickstart.sh
# Stages lie in runs/quickstart (or $QUICKSTART_DIR); a stage that is complete is not repeated.
# Interrupted while it trains (Ctrl-C, SIGTERM), it saves and ends with 75; started again, it continues.
# Flags go to the pretraining: bash launch/quickstart.sh --train.max_steps 20
set -euo pipefail
cd "$(dirname "$0")/.."

bash launch/install.sh
folder=${QUICKSTART_DIR:-runs/quickstart}
recipe=launch/recipes/quickstart.yaml
say() { printf '\n[%s] %s\n' "$(date +%H:%M:%S)" "$*"; }
started=$SECONDS

# A stage runs in the background: bash passes signals on only while it waits for one. And in a
# process group of its own: Ctrl-C and a closed terminal reach it once, as the signal passed on, and
# bash's own way of ending with a child that got the same SIGINT does not come in between.
set -m
run() {
  local code signalled
  trap 'signalled=1; kill -TERM "$child" 2>/dev/null || true' INT TERM HUP
  .venv/bin/python "launch/$1.py" "${@:2}" &
  child=$!
  while signalled= code=0; wait "$child" || code=$?; [[ $signalled ]]; do :; done
  trap - INT TERM HUP
  return "$code"
}

say "1/4 pairs: OpenMoji drawings and their names"
run collect --output_dir "$folder/data"

say "2/4 pretraining"
# Without instructions for bf16 a CPU emulates it, slower than fp32.
precision=fp32
if nvidia-smi -L >/dev/null 2>&1 || grep -qwE 'avx512_bf16|amx_bf16|bf16' /proc/cpuinfo 2>/dev/null; then
  precision=bf16
fi
# 250 steps are four and a half epochs: well within ten minutes on two slow cores.
run pretrain --config "$recipe" --output_dir "$folder/pretrain" --precision "$precision" \
  --data.train "$folder/data/train" --data.eval "$folder/data/heldout" --train.max_steps 250 "$@"

say "3/4 evaluation on held-out pictures"
for task in retrieval caption; do
  results=$folder/pretrain/evaluation/$task/results.json
  if [[ $results -nt $folder/pretrain/checkpoints && $results -nt $folder/pretrain/config.yaml ]]; then
    echo "$results: complete, nothing to do"
    continue
  fi
  run evaluate --task "$task" --config "$folder/pretrain/config.yaml" \
    --model.checkpoint "$folder/pretrain" --output_dir "${results%/*}"
done

say "4/4 report"
run report --run "$folder" --output "$folder/report.html"
say "done in $((SECONDS - started)) s: open $folder/report.html"
