#!/usr/bin/env bash
# What `make build` does, command by command: a chat model of TinyWorld in about ten minutes.
#
#   runs/laptop.sh               run it; a second run goes on where the first one stopped
#   DRY_RUN=1 runs/laptop.sh     print the commands and run none
#   STEPS=20 runs/laptop.sh      a short try of every step
# Needs: the virtual environment active, two cores, no network.
set -euo pipefail
cd "$(dirname "$0")/.."

run() {
  echo "+ $*"
  if [ -z "${DRY_RUN:-}" ]; then "$@"; fi
}

short=${STEPS:+--steps $STEPS}

run nanochat tinyworld-make --force
run nanochat tok-train
# shellcheck disable=SC2086 # $short is two words or none
run nanochat base-train --tag laptop-sh --depth 4 --aspect-ratio 32 --head-size 32 \
  --context 256 --max-context 512 --rows 8 --batch-tokens 2048 --buffer 64 --eval-every 200 \
  --warmdown-share 0.4 --final-lr-share 0.1 --optimizer.lr-scale 0.3 --resume --steps 800 $short
run nanochat base-eval --tag laptop-sh
# shellcheck disable=SC2086
run nanochat chat-sft --base-tag laptop-sh --tag laptop-sh --rows 8 --context 256 \
  --eval-every 900 --warmup-steps 40 --optimizer.lr-scale 0.3 --resume --steps 3600 $short
run nanochat chat-eval --tag laptop-sh
# shellcheck disable=SC2086
run nanochat chat-rl --preset laptop --sft-tag laptop-sh --resume $short
run nanochat report
