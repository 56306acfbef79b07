#!/bin/bash
# Submit what is missing of an experiment as one SLURM array job, one run a task:
#
#     bash submit.sh WORKSPACE [options of cas_run: --arch, --gt, --folds, --steps, …]
#
# AT_ONCE=K runs at most K tasks at once (default 20). PYTHON is the interpreter that cardiac_autoseg is installed for.
# Time, partition and account: edit array.sh, or set SBATCH_TIMELIMIT, SBATCH_PARTITION, SBATCH_ACCOUNT.
set -euo pipefail
workspace=${1:?give the workspace folder, then options of cas_run}
shift
python=${PYTHON:-python}
here=$(cd "$(dirname "$0")" && pwd)
most=1000  # SLURM's MaxArraySize is 1001 unless the administrator changed it: scontrol show config

mkdir -p "$workspace/slurm"
# A list of its own for each submission: an array that waits still reads the one that it was submitted with.
list=$(cd "$workspace" && pwd)/slurm/runs_$(date +%Y%m%d_%H%M%S)_$$.txt
"$python" -m cardiac_autoseg.cli.run -w "$workspace" "$@" --print-commands > "$list" || { code=$?; rm "$list"; exit $code; }
runs=$(wc -l < "$list")
if [ "$runs" -eq 0 ]; then
    rm "$list"
    echo "nothing is left to do"
    exit 0
fi
if [ "$runs" -gt "$most" ]; then
    echo "the first $most of $runs runs; submit again for the others when they are done"
    runs=$most
fi

# What the plans need, the largest of them: memory in MB, and the number of GPUs.
read -r memory gpus < <("$python" - "$workspace" <<'PYTHON'
import sys
from pathlib import Path

from cardiac_autoseg.scale.devices import training_bytes
from cardiac_autoseg.training.inputs import load_plan
from cardiac_autoseg.workspace import Workspace

root = Path(sys.argv[1])
plans = [load_plan(Workspace(root), path.stem) for path in (root / "plans").glob("*.json")]
gpus = max(plan.devices if plan.target == "gpu" else 0 for plan in plans)
print(round(max(training_bytes(plan) for plan in plans) / 1e6), gpus)
PYTHON
)
requests=(--mem="${memory}M")
if [ "$gpus" -gt 0 ]; then
    requests+=(--gres="gpu:$gpus")
fi
sbatch --array="1-$runs%${AT_ONCE:-20}" --output="$workspace/slurm/%A_%a.log" "${requests[@]}" "$here/array.sh" "$list"
