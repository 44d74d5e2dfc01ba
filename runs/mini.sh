#!/usr/bin/env bash
# The whole line that made the embedded `mini` v1.1, from portraits and footage to the model folder.
#   PORTRAITS=folder FOOTAGE=folder runs/mini.sh         (two CPU cores: about four hours; every command resumes)
# PORTRAITS: pictures of one face each, with or without a MANIFEST.csv. FOOTAGE: the GRID clips named in docs/training.md;
# leave it out to train on puppets alone.
# v1 goes on from v0, which is in this repository's history. START= (empty) trains every step from nothing.
# The settings are those of src/openloopy/recipes/mini.py; docs/training.md has the data, times and results.
set -euo pipefail
cd "$(dirname "$0")/.."
PORTRAITS=${PORTRAITS:?name a folder of portraits}
FOOTAGE=${FOOTAGE:-}
WORK=${WORK:-work}
RUN=${RUN:-$WORK/runs/mini}
OPENLOOPY=${OPENLOOPY:-.venv/bin/openloopy}
HELD_OUT=grid_f_lbbc2a,grid_f_lrwp9a,grid_m_lbax4n,grid_m_pwij3p,grid_m_sbwe5n,grid_s2

if [ "${START-v0}" = v0 ]; then
  mkdir -p "$WORK/v0"
  git archive 3b7d507 src/openloopy/weights/mini | tar x -C "$WORK/v0" --strip-components 4
  START=$WORK/v0
fi
start=(${START:+--start "$START"})

# Many people for the autoencoder, long clips for the denoiser, a little footage for both.
"$OPENLOOPY" puppet --portraits "$PORTRAITS" "$WORK/short" --name short --seed 1 --num-clips 640 --clip-s 2.4 --workers 2
"$OPENLOOPY" puppet --portraits "$PORTRAITS" "$WORK/long" --name long --seed 2 --num-clips 86 --clip-s 20 --val-share 0.07 \
  --workers 2
"$OPENLOOPY" puppet --portraits "$PORTRAITS" "$WORK/eval" --name eval --seed 3 --num-clips 14 --clip-s 10 --val-share 0.86 \
  --workers 2  # people, voices and sentences that training never sees
footage=()
if [ -n "$FOOTAGE" ]; then
  "$OPENLOOPY" prepare "$FOOTAGE" "$WORK/grid" --size 256 --person-pattern '(grid_(?:s\d+|[fm]_\w+))' --held-out "$HELD_OUT" \
    --licence "CC BY 4.0 (GRID audiovisual sentence corpus)" --workers 2
  footage=(--data "$WORK/grid")
fi

"$OPENLOOPY" train mini.codec  --data "$WORK/short" "${footage[@]}" --run "$RUN" "${start[@]}"
"$OPENLOOPY" train mini.audio  --data "$WORK/short" --run "$RUN" "${start[@]}"
"$OPENLOOPY" train mini.stage1 --data "$WORK/long" --data "$WORK/short" "${footage[@]}" --run "$RUN" "${start[@]}"
"$OPENLOOPY" train mini.decoder --data "$WORK/short" "${footage[@]}" --run "$RUN" "${start[@]}" \
  --set training.reading_weight=0  # or beside stage 2
"$OPENLOOPY" train mini.stage2 --data "$WORK/long" --data "$WORK/short" "${footage[@]}" --run "$RUN" "${start[@]}" \
  --set training.dropout.motion_frames=0.4  # the recipe masks none since (docs/evaluation.md, `nomask`)

# Second round, v1.1: decoder and denoiser of v1 go on; encoder, audio encoder, caches and probe stay.
NEXT=$RUN-2
mkdir -p "$NEXT/codec" "$NEXT/audio"
cp -r "$RUN/decoder/vae" "$NEXT/codec/"
cp -r "$RUN/audio/audio_encoder" "$NEXT/audio/"
for same in cache probe; do ln -sfn "$(realpath "$RUN/$same")" "$NEXT/$same"; done
"$OPENLOOPY" train mini.decoder --data "$WORK/short" "${footage[@]}" --run "$NEXT" --start "$RUN/model" \
  --set training.seed=2 --set loop.num_steps=900  # or beside stage 2
"$OPENLOOPY" train mini.stage2 --data "$WORK/long" --data "$WORK/short" "${footage[@]}" --run "$NEXT" \
  --start "$RUN/model" --set training.seed=1 --set training.state_weight=0.3 --set loop.num_steps=950 \
  --set training.dropout.motion_frames=0.4
.venv/bin/python benchmarks/quality.py --model "$NEXT/model" --data "$WORK/eval" --people 10 --seconds 5 --out "$NEXT/quality" \
  ${FOOTAGE:+--videos "$FOOTAGE"}
echo "the model folder is $NEXT/model; copy it to src/openloopy/weights/mini to embed it"
