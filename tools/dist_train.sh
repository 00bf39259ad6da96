#!/usr/bin/env bash
# Train on several GPUs of one machine, or of several when started on each of them.
#   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
#   NNODES=1  NODE_RANK=0  MASTER_ADDR=127.0.0.1  PORT=29500     GPUS counts those of one machine
set -euo pipefail

usage='usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500] dist_train.sh CONFIG GPUS [arguments of train.py]'
if (($# < 2)); then
    printf 'dist_train.sh needs a config and the number of GPUs, got %d arguments.\n%s\n' $# "$usage" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2
if ! [[ $gpus =~ ^[1-9][0-9]*$ ]]; then
    printf 'dist_train.sh: GPUS has to be a positive number, got "%s".\n%s\n' "$gpus" "$usage" >&2
    exit 2
fi
if ! command -v torchrun >/dev/null; then
    echo 'dist_train.sh: torchrun is not on PATH; activate the environment: source .venv/bin/activate' >&2
    exit 127
fi

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# The checkout's package, also where mmvmt is not installed.
export PYTHONPATH="$(dirname "$tools")${PYTHONPATH:+:$PYTHONPATH}"
exec torchrun \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$tools/train.py" "$config" --launcher pytorch "$@"
