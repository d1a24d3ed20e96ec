#!/usr/bin/env bash
# The same command on the machines of a SLURM allocation, one launcher a machine, without ssh:
#   sbatch --nodes 4 --gpus-per-node 8 launch/slurm.sh --config launch/recipes/pretrain_base_14m.yaml \
#     --data.train 'SHARDS/{00000..01399}.tar' --output_dir /shared/runs/base_14m
# Submit from the repository root; the output folder lies on a disk that all machines share.
# Before the time limit the run is asked to stop: it saves, and the job is queued again.
#SBATCH --job-name=blip
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@180
set -euo pipefail

hosts=$(mktemp "${SLURM_SUBMIT_DIR:-.}/.hosts.XXXXXX")
trap 'rm -f "$hosts"' EXIT
scontrol show hostnames "$SLURM_JOB_NODELIST" |
  sed "s/\$/ slots=${SLURM_GPUS_ON_NODE:-1}/" > "$hosts"
address=$(head -n 1 "$hosts" | cut -d ' ' -f 1)
port=$((20000 + SLURM_JOB_ID % 10000))

srun --kill-on-bad-exit=1 bash -c 'exec .venv/bin/deepspeed --hostfile "$1" --no_ssh \
  --node_rank "$SLURM_NODEID" --master_addr "$2" --master_port "$3" launch/pretrain.py "${@:4}"' \
  -- "$hosts" "$address" "$port" "$@" &
step=$!

# The batch script alone gets the signal. It asks the ranks themselves, which are the launchers'
# children: a launcher that is asked kills them 30 seconds later, saved or not.
ask='pkill -TERM --parent "$(pgrep -d , -f "deepspeed.launcher.launch .*--master_port=$0 ")"'
requeue=
trap 'requeue=1; srun --overlap --ntasks-per-node=1 bash -c "$ask" "$port" || kill -TERM "$step"' TERM
code=0
wait "$step" || code=$?
if [[ -n $requeue ]]; then
  wait "$step" || true
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
