#!/usr/bin/env bash
# Train as a SLURM job, one task per GPU.
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]
#   GPUS=4               all GPUs of the job
#   GPUS_PER_NODE        default: GPUS, at most 4, so that a small job does not reserve a whole node
#   CPUS_PER_TASK=5      cores for each GPU
#   SRUN_ARGS, PY_ARGS   more arguments for srun and train.py, split at white space
#   MASTER_PORT=29500    choose another one when two jobs share a node
set -euo pipefail

usage='usage: [GPUS=4 GPUS_PER_NODE=4 CPUS_PER_TASK=5 SRUN_ARGS= PY_ARGS=] slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of train.py]'
if (($# < 3)); then
    printf 'slurm_train.sh needs a partition, a job name and a config, got %d arguments.\n%s\n' $# "$usage" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
shift 3
gpus=${GPUS:-4}
if ! [[ $gpus =~ ^[1-9][0-9]*$ ]]; then
    printf 'slurm_train.sh: GPUS has to be a positive number, got "%s".\n%s\n' "$gpus" "$usage" >&2
    exit 2
fi
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 4 ? gpus : 4))}
# read ends with status 1 at the end of its input, which is what splits at line ends too.
read -r -d '' -a srun_args <<<"${SRUN_ARGS:-}" || true
read -r -d '' -a py_args <<<"${PY_ARGS:-}" || true
if ! command -v srun >/dev/null; then
    echo 'slurm_train.sh: srun is not on PATH; run it on a SLURM login node, or use dist_train.sh on a plain machine' >&2
    exit 127
fi

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# The checkout's package, also where mmvmt is not installed.
export PYTHONPATH="$(dirname "$tools")${PYTHONPATH:+:$PYTHONPATH}"
# Before bash 4.4 an empty array counts as unset: hence the + in its expansions.
exec srun \
    --partition="$partition" \
    --job-name="$job_name" \
    --gres="gpu:$gpus_per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${srun_args[@]+"${srun_args[@]}"} \
    python -u "$tools/train.py" "$config" --launcher slurm ${py_args[@]+"${py_args[@]}"} "$@"
