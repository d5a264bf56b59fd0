#!/usr/bin/env bash
# Trains on GPU nodes under SLURM, one process for all GPUs of a node:
#
#   sbatch --nodes=2 experiments/launch/slurm.sh --config=configs/quickstart.py --workdir=/shared/run
#
# WORKDIR is on a file system that all nodes see. Before the time is over, and when the job is
# preempted, the processes get SIGTERM, save and end with exit code 75; the job then queues again
# and goes on. It is queued again after a node has failed, too (--requeue).
#SBATCH --job-name=partitionsel
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

srun --kill-on-bad-exit=0 .venv/bin/python -m experiments.train --patience=600 "$@"
code=$?
if [ "$code" = 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
