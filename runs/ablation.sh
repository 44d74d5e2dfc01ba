#!/usr/bin/env bash
# Does long-term motion help? The paper's ablations on puppets: corpora, all variants with two seeds, measures, table.
#   PORTRAITS=folder runs/ablation.sh           (two CPU cores: some hours; every command resumes)
# PORTRAITS: official portraits of members of the US Congress, named by their Bioguide id (S001078.jpg, ...; public
# domain, for example from github.com/unitedstates/images); which, is in runs/ablation/people.csv. Any other portraits
# do as well: change the two lists, and TEST_PEOPLE to those whose lids can be read from latents (out/shared/reader.json).
# People of test_people.csv speak for a minute in voices and sentences that training never saw; four of them were seen in
# training, two were not. A person's habits come from its name and --seed.
# The settings are those of src/openloopy/recipes/ablation.py; table and reading are in docs/evaluation.md.
set -euo pipefail
cd "$(dirname "$0")/.."
PORTRAITS=${PORTRAITS:?name a folder of portraits}
WORK=${WORK:-work/ablation}
BIN=${BIN:-.venv/bin}
SEEDS=${SEEDS:-0 1}
TEST_PEOPLE=${TEST_PEOPLE:-L000273 S000480 C000380}

for list in people test_people; do
  mkdir -p "$WORK/$list"
  cp "runs/ablation/$list.csv" "$WORK/$list/manifest.csv"
  tail -n +2 "runs/ablation/$list.csv" | cut -d, -f1 | while read -r file; do cp "$PORTRAITS/$file" "$WORK/$list/"; done
done
"$BIN/openloopy" puppet "$WORK/train" --portraits "$WORK/people" --num-clips 84 --clip-s 20 --name habits --size 128 \
  --seed 8 --val-share 0.0477 --workers 2
"$BIN/openloopy" puppet "$WORK/test" --portraits "$WORK/test_people" --num-clips 6 --clip-s 60 --name minute --size 128 \
  --seed 8

# One seed after the other; with two cores they may run side by side once $WORK/out/shared is there.
bench() { "$BIN/python" benchmarks/ablation.py "$@" --out "$WORK/out"; }
# shellcheck disable=SC2086  # SEEDS is a list
bench train --data "$WORK/train" --seeds $SEEDS
# shellcheck disable=SC2086
bench measure --data "$WORK/train" --test "$WORK/test" --seeds $SEEDS --people $TEST_PEOPLE --steps 3
bench cost
# shellcheck disable=SC2086
bench table --test "$WORK/test" --seeds $SEEDS --people $TEST_PEOPLE
