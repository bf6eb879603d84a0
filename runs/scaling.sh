#!/usr/bin/env bash
# How the loss falls with size: models of growing depth, each trained for its own best horizon.
#
#   runs/scaling.sh                             depths 1 to 4 on TinyWorld, on a processor
#   DATA=climbmix DEPTHS="12 16 20" GPUS=8 runs/scaling.sh
#   DRY_RUN=1 runs/scaling.sh                   print the commands and run none
# The dial decides everything but the depth (nanochat/scaling.py). `--dry-run` of base-train says what
# one depth will cost. The record of each run is kept as report/scaling-d<depth>.json.
# Needs: the virtual environment active, a tokenizer and data (laptop.sh or speedrun.sh made them).
set -euo pipefail
cd "$(dirname "$0")/.."

data=${DATA:-tinyworld} gpus=${GPUS:-0} context=${CONTEXT:-256}

run() {
  echo "+ $*"
  if [ -z "${DRY_RUN:-}" ]; then "$@"; fi
}

for depth in ${DEPTHS:-1 2 3 4}; do
  flags=(--data "$data" --depth "$depth" --tag "scaling-d$depth" --head-size 32
    --context "$context" --ratio "${RATIO:-12}" --eval-every 0 --resume)
  if [ "$gpus" -gt 0 ]; then
    run torchrun --standalone --nproc-per-node "$gpus" -m scripts base-train "${flags[@]}"
  else
    run nanochat base-train "${flags[@]}"
  fi
  run nanochat base-eval --tag "scaling-d$depth" --eval bpb,core --json
  folder=${NANOCHAT_BASE_DIR:-.nanochat}/report
  run cp "$folder/base_eval.json" "$folder/scaling-d$depth.json"
done
