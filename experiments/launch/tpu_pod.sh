#!/usr/bin/env bash
# The paper's Table I on all hosts of a Cloud TPU pod slice, from any machine
# with gcloud:
#
#   TPU=my-v4-32 ZONE=us-central2-b experiments/launch/tpu_pod.sh \
#     --workdir=/mnt/shared/runs/paper
#
# The repository must lie in REPOSITORY on every host, installed with
# `pip install -e '.[tpu]'`, and --workdir on a disk that all hosts mount (NFS,
# Filestore). The same command goes on after a preemption, which sends SIGTERM.
set -euo pipefail
: "${TPU:?name of the TPU}" "${ZONE:?its zone}"
REPOSITORY=${REPOSITORY:-personalization_jax}

# JAX finds the processes from the pod's metadata.
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="
  cd $REPOSITORY && exec python -m experiments.table1 \
    --flagfile=experiments/presets/paper.flags --distributed $(printf '%q ' "$@")
"
