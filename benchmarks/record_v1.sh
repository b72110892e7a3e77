#!/usr/bin/env bash
# Record the runs of suite v1, one process per core, whole recipes (test and train) first.
#
#   benchmarks/record_v1.sh OUT [WORKERS]
#
# May be stopped and started again at any time: finished traces are skipped, unfinished ones go on from their last
# checkpoint. Roughly 40 minutes of one core per run. PYTHON names the interpreter.
set -euo pipefail

out=${1:?usage: record_v1.sh OUT [WORKERS]}
workers=${2:-1}
export OUT=$out PYTHON=${PYTHON:-python} OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

jobs() {
  local recipe seed
  for recipe in switch-8e-drop qwen3moe-16e-shift qwen3moe-16e-aux qwen3moe-16e-aux0 qwen3moe-16e-restart \
    mixtral-8e-pooled deepseekv3-16e-shift granitemoe-32e-top8 qwen3moe-64e-top1 deepseekv3-32e-lossfree \
    gptoss-32e-top4 olmoe-64e-top8; do
    echo "$recipe 1 test"
    echo "$recipe 0 train"
  done
  # two more test runs of three recipes: how much seeds alone vary
  for recipe in qwen3moe-16e-shift qwen3moe-16e-aux deepseekv3-32e-lossfree; do
    for seed in 2 3; do
      echo "$recipe $seed test"
    done
  done
}

jobs | xargs -P "$workers" -L 1 bash -c '
  trace="$OUT/$0/$2/seed$1.parquet"
  [ -e "$trace" ] || [ -e "$OUT/stop" ] && exit 0
  mkdir -p "$OUT/log"
  "$PYTHON" -m moeload_bench record "$0" --seed "$1" --split "$2" --out "$OUT" --resume \
    >> "$OUT/log/$0-$2-$1.log" 2>&1
'
