#!/usr/bin/env bash
# Test on several GPUs of one machine, or of several when started on each of them.
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
#   NNODES=1  NODE_RANK=0  MASTER_ADDR=127.0.0.1  PORT=29500     GPUS counts those of one machine
set -euo pipefail

usage='usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500] dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]'
if (($# < 3)); then
    printf 'dist_test.sh needs a config, a checkpoint and the number of GPUs, got %d arguments.\n%s\n' $# "$usage" >&2
    exit 2
fi
config=$1
checkpoint=$2
gpus=$3
shift 3
if ! [[ $gpus =~ ^[1-9][0-9]*$ ]]; then
    printf 'dist_test.sh: GPUS has to be a positive number, got "%s".\n%s\n' "$gpus" "$usage" >&2
    exit 2
fi
if ! command -v torchrun >/dev/null; then
    echo 'dist_test.sh: torchrun is not on PATH; activate the environment: source .venv/bin/activate' >&2
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
    "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
