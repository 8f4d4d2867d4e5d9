#!/usr/bin/env bash
# The paper's Table I on several nodes of a SLURM cluster: one process a node,
# all GPUs of the node its devices. From the repository's root:
#
#   sbatch experiments/launch/slurm.sh --workdir=/shared/runs/paper
#
# --workdir must lie on a file system that all nodes share. SLURM sends SIGTERM
# 60 s before the time is up (--signal); the run then saves and ends with code
# 75, and the job puts itself back into the queue. A lost node (code 76, or any
# other) requeues it in the same way, at most five times in all.
#SBATCH --job-name=personalization
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

# JAX finds the processes from SLURM's variables. One process has all GPUs of
# its node, not only the one that SLURM's local rank names.
gpus=${SLURM_GPUS_ON_NODE:-4}
export JAX_LOCAL_DEVICE_IDS=${JAX_LOCAL_DEVICE_IDS:-$(seq -s, 0 $((gpus - 1)))}

srun --kill-on-bad-exit=1 python -m experiments.table1 \
  --flagfile=experiments/presets/paper.flags \
  --distributed \
  "$@"
code=$?

if [ "$code" -ne 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 5 ]; then
  echo "ended with code $code: back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
