#!/usr/bin/env bash
# The paper's size on several machines, one call on each of them, with a file system that all can see:
#
#   NODES=3 NODE=0 MAIN=10.0.0.1 SHARDS=/data/shards START=/data/start RUN=/data/run runs/sd15_multinode.sh
#
# GPUS (per machine, 8), PORT (29500), STEP (features, stage1 or stage2; all in turn without it); whatever follows goes to
# `openloopy train`, such as --set loop.parallel=fsdp (then STEP must be named). The same calls resume. When a process
# dies, all stop, and torchrun starts them again from the last checkpoint, up to RESTARTS (3) times.
set -euo pipefail
: "${NODES:?number of machines}" "${NODE:?number of this machine, from 0}" "${MAIN:?address of machine 0}"
: "${SHARDS:?folder of shards}" "${START:?folder from openloopy import}" "${RUN:?run folder}"
exec torchrun --nnodes "$NODES" --node-rank "$NODE" --nproc-per-node "${GPUS:-8}" \
  --master-addr "$MAIN" --master-port "${PORT:-29500}" --max-restarts "${RESTARTS:-3}" \
  -m openloopy train "sd15${STEP:+.$STEP}" --data "$SHARDS" --run-folder "$RUN" --start-model "$START" "$@"
