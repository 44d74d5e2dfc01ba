#!/usr/bin/env bash
# Does long-term motion help? The paper's ablations on face states: corpora, all variants with two seeds, measures, table.
#   runs/ablation.sh                (two CPU cores: some hours; every command resumes)
# STATES: the corpus to train on, that of runs/mini.sh; HEARING: a folder of an audio encoder, the embedded model's if not
# given. The test is people, voices and sentences that training never saw, a minute each, who go on from their own first
# ten seconds.
# The settings are those of src/openloopy/recipes/ablation.py; table and reading are in docs/evaluation.md.
set -euo pipefail
cd "$(dirname "$0")/.."
WORK=${WORK:-work/ablation}
STATES=${STATES:-work/mini/states}
BIN=${BIN:-.venv/bin}
SEEDS=${SEEDS:-0 1}

if [ ! -e "$STATES/index.json" ]; then
  "$BIN/openloopy" puppet "$STATES" --states --hours "${HOURS:-20}" --clip-s 20 --clip-s 32 --clip-s 45 --clip-s 60 \
    --name mini --seed 1 --workers 2
fi
"$BIN/openloopy" puppet "$WORK/test" --states --num-clips 26 --clip-s 60 --val-share 0.93 --name minute --seed 9 --workers 2

# One seed after the other; with two cores they may run side by side once $WORK/out/shared is there.
bench() { "$BIN/python" benchmarks/ablation.py "$@" --out "$WORK/out"; }
# shellcheck disable=SC2086  # SEEDS is a list
bench train --data "$STATES" --seeds $SEEDS ${HEARING:+--hearing "$HEARING"}
# shellcheck disable=SC2086
bench measure --test "$WORK/test" --seeds $SEEDS
bench cost
# shellcheck disable=SC2086
bench table --test "$WORK/test" --seeds $SEEDS
