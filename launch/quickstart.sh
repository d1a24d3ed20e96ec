#!/usr/bin/env bash
# BLIP's whole loop on real pictures, on any machine: pretrain on noisy pairs, fine-tune a captioner
# and a filter on a few clean ones, let them clean the noisy ones, pretrain anew, compare:
#   bash launch/quickstart.sh
# Stages lie in runs/quickstart (or $QUICKSTART_DIR); a stage that is complete is not repeated.
# Interrupted while it works (Ctrl-C, SIGTERM), it saves and ends with 75; started again, it continues.
# Flags go to every training: bash launch/quickstart.sh --train.max_steps 20
set -euo pipefail
cd "$(dirname "$0")/.."

bash launch/install.sh
folder=${QUICKSTART_DIR:-runs/quickstart}
recipes=launch/recipes
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

# Without instructions for bf16 a CPU emulates it, slower than fp32.
precision=fp32
if nvidia-smi -L >/dev/null 2>&1 || grep -qwE 'avx512_bf16|amx_bf16|bf16' /proc/cpuinfo 2>/dev/null; then
  precision=bf16
fi
world=$folder/data/world
train() {  # program recipe stage pairs flags...
  run "$1" --config "$recipes/$2.yaml" --output_dir "$folder/$3" --precision "$precision" \
    --data.train "$4" --data.eval "$folder/data/heldout" "${@:5}"
}
evaluate() {  # stage
  local task results
  for task in retrieval caption; do
    results=$folder/$1/evaluation/$task/results.json
    if [[ $results -nt $folder/$1/checkpoints && $results -nt $folder/$1/config.yaml ]]; then
      echo "$results: complete, nothing to do"
      continue
    fi
    run evaluate --task "$task" --config "$folder/$1/config.yaml" \
      --model.checkpoint "$folder/$1" --output_dir "${results%/*}"
  done
}

say "1/7 pairs: OpenMoji drawings and their names, 30 % of nine tenths of them swapped"
run collect --output_dir "$folder/data" --noise 0.3 --clean_fraction 0.1

say "2/7 pretraining on the noisy pairs, and what it finds among held-out pictures"
train pretrain quickstart pretrain "[$world/web, $world/clean]" --train.max_steps 400 "$@"
evaluate pretrain

say "3/7 captioner: from the pretrained model, on the clean pairs"
train finetune quickstart_captioner captioner "$world/clean" --model.checkpoint "$folder/pretrain" "$@"

say "4/7 filter: likewise"
train finetune quickstart_filter filter "$world/clean" --model.checkpoint "$folder/pretrain" "$@"

say "5/7 captioning and filtering of the noisy pairs"
run capfilt --data.train "$world/web" --captioner "$folder/captioner" --filter "$folder/filter" \
  --output_dir "$folder/capfilt" --precision "$precision"

say "6/7 a new model, pretrained on the cleaned pairs"
train pretrain quickstart pretrain_clean "[$folder/capfilt, $world/clean]" --train.max_steps 400 "$@"
evaluate pretrain_clean

say "7/7 report"
run report --run "$folder" --output "$folder/report.html"
say "done in $((SECONDS - started)) s: open $folder/report.html"
