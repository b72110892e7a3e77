#!/usr/bin/env bash
# Record the runs of a plan (leaderboard/suites/plans/), one process per core, in the order of the plan.
#
#   benchmarks/record.sh PLAN OUT [WORKERS]
#
# May be stopped and started again at any time: finished traces are skipped, unfinished ones go on from their last
# checkpoint. Roughly 40 minutes of one core per small run of v3. PYTHON names the interpreter.
set -euo pipefail

plan=${1:?usage: record.sh PLAN OUT [WORKERS]}
out=${2:?usage: record.sh PLAN OUT [WORKERS]}
workers=${3:-1}
export OUT=$out PYTHON=${PYTHON:-python} OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

# "RECIPE SEED SPLIT" for each run of the plan
jobs() {
  PYTHONPATH="$(dirname "$0")/.." "$PYTHON" -m leaderboard runs "$plan"
}

jobs | xargs -P "$workers" -L 1 bash -c '
  trace="$OUT/$0/$2/seed$1.parquet"
  [ -e "$trace" ] || [ -e "$OUT/stop" ] && exit 0
  mkdir -p "$OUT/log"
  "$PYTHON" -m moeload_bench record "$0" --seed "$1" --split "$2" --out "$OUT" --resume \
    >> "$OUT/log/$0-$2-$1.log" 2>&1
'
