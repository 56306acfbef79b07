#!/bin/bash
#SBATCH --job-name=cas_run
#SBATCH --cpus-per-task=4
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#
# One task of an array: the line SLURM_ARRAY_TASK_ID of a list of commands, which is its only argument (see submit.sh).
# SLURM sends SIGTERM three minutes before the time limit, and when it preempts the task: the training then saves its state.
set -uo pipefail
list=${1:?give the list of commands that cas_run --print-commands wrote}
index=${SLURM_ARRAY_TASK_ID:?this is one task of an array job: submit it with submit.sh}
if [ ! -f "$list" ]; then
    echo "there is no list of commands $list: submit again with submit.sh" >&2
    exit 2
fi
line=$(sed -n "${index}p" "$list")
if [ -z "$line" ]; then
    echo "there is no line $index in $list, which has $(wc -l < "$list"): submit again with submit.sh" >&2
    exit 2
fi
# The lines are quoted for a shell. The threads decide the last digits of a result, so they are said, not guessed.
eval "set -- $line"
# In the place of this shell, to which SLURM sends the signal.
exec "$@" --threads "${SLURM_CPUS_PER_TASK:-1}"
