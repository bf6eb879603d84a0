#!/usr/bin/env bash
# A chat model of GPT-2's grade from nothing, on one machine with 8 GPUs in a few hours.
#
#   runs/speedrun.sh                       run it; a second run goes on where the first one stopped
#   DRY_RUN=1 runs/speedrun.sh             print the commands and run none
#   GPUS=1 DEPTH=12 SHARDS=24 runs/speedrun.sh   a smaller model on one GPU
#   NODES=2 NODE=0 HOST=10.0.0.1 runs/speedrun.sh   this machine is the first of two
# Needs: the virtual environment active, CUDA GPUs, about 20 GB of disk, the network for the data.
# These commands were checked as far as a processor can: CUDA was not at hand (dev/LEADERBOARD.md).
set -euo pipefail
cd "$(dirname "$0")/.."

depth=${DEPTH:-24} gpus=${GPUS:-8} shards=${SHARDS:-170} rows=${ROWS:-16} tag=d${DEPTH:-24}
nodes=${NODES:-1}

run() {
  echo "+ $*"
  if [ -z "${DRY_RUN:-}" ]; then "$@"; fi
}

train() { # train VERB FLAGS...: on every GPU of this machine, and of the others where there are any
  if [ "$nodes" -gt 1 ]; then
    run torchrun --nnodes "$nodes" --node-rank "${NODE:-0}" --nproc-per-node "$gpus" \
      --rdzv-backend c10d --rdzv-endpoint "${HOST:?the address of the first machine}:29500" \
      -m scripts "$@"
  else
    run torchrun --standalone --nproc-per-node "$gpus" -m scripts "$@"
  fi
}

# 1) eight shards are enough for the vocabulary; the rest comes while nothing else is to do
run nanochat data-download --dataset climbmix --shards 8
run nanochat tok-train --data climbmix --vocab-size 32768
run nanochat tok-eval
run nanochat data-download --dataset climbmix --shards "$shards"
run nanochat task-download --tasks all

# 2) pretraining: eight tokens for each parameter in matrices
train base-train --data climbmix --depth "$depth" --tag "$tag" --ratio 8 --head-size 128 \
  --context 2048 --rows "$rows" --window-pattern SSSL --eval-every 500 --resume
run nanochat base-eval --tag "$tag" --bundle dclm --dtype auto

# 3) conversations: everyday talk, then what it lacks: exams, arithmetic, spelling
train chat-sft --data real --base-tag "$tag" --tag "$tag" --context 2048 --rows "$rows" --resume
run nanochat chat-eval --tag "$tag" --tasks chatcore --max-tokens 512

# 4) practice: word problems that check themselves; answers differ in length at every step, and
#    each length would be compiled anew
train chat-rl --preset speedrun --sft-tag "$tag" --resume --compile off
run nanochat chat-eval --stage rl --tag "$tag" --tasks gsm8k --max-tokens 512 --samples 8
run nanochat report
