#!/bin/sh
# A worker in an allocation of Slurm. It ends, and gives the allocation back,
# when nothing is left that it could run.
#   sbatch slurm.sh                      one worker
#   sbatch --array=1-8 slurm.sh          eight
#   scancel --batch --signal=TERM JOBID  lets its jobs end; scancel JOBID kills
#SBATCH --job-name=queuectl
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=queuectl-%j.log
# Eleven minutes before the time is up the worker gets SIGTERM, and drains ...
#SBATCH --signal=B:TERM@660
set -eu

# ... for ten of them; then its jobs go back to the queue, uncounted.
export QUEUECTL_STOP_GRACE=10m
: "${QUEUECTL_SPOOL:=$HOME/spool}"
export QUEUECTL_SPOOL

# With a GPU (sbatch --gres=gpu:1) it takes the jobs that need one, too.
if [ -n "${SLURM_JOB_GPUS:-}" ]; then
    set -- --label gpu
fi

# exec: the signal goes to this very process.
exec queuectl worker start --count "${SLURM_CPUS_PER_TASK:-1}" --until-empty "$@"
