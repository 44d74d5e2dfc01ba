#!/usr/bin/env bash
# The whole line that makes the embedded `mini`: a corpus of face states, all steps, the model folder.
#   runs/mini.sh                    (one or two CPU cores: see docs/training.md; every command resumes)
# The corpus is speech with the states of a face that says it; no portrait and no picture is needed.
# OPENLOOPY_KOKORO: a folder with Kokoro's files (docs/data.md). RECORDINGS (optional): folders of recorded speech, separated
# by spaces; SPEAKERS_HELD_OUT: names of speakers in them that no training hears.
# FOOTAGE (optional): a folder of filmed speakers. The shipped weights had six minutes (docs/training.md), which teach lips.
# The settings are those of src/openloopy/recipes/mini.py; docs/training.md has times and results.
# HOURS: length of the corpus; KOKORO_HOURS: of Kokoro's speech, half a core second a second. DEVICE: where the denoiser trains (cpu, cuda). PORTRAITS, SOUNDS (optional): folders for the
# benchmark of the finished model.
set -euo pipefail
cd "$(dirname "$0")/.."
WORK=${WORK:-work/mini}
RUN=${RUN:-$WORK/run}
BIN=${BIN:-.venv/bin}
HOURS=${HOURS:-23.6}
KOKORO_HOURS=${KOKORO_HOURS:-2}
DEVICE=${DEVICE:-cpu}

# Human-sounding and human voices with the times of their phonemes.
for split in val train; do
  hours=$([ $split = val ] && echo 0.12 || echo "$KOKORO_HOURS")
  "$BIN/openloopy" speech "$WORK/speech" --kokoro-hours "$hours" --split $split --workers 2
done
for folder in ${RECORDINGS:-}; do
  "$BIN/openloopy" speech "$WORK/speech" --recorded "$folder" ${SPEAKERS_HELD_OUT:+--held-out "$SPEAKERS_HELD_OUT"}
done

# Long clips, so that the 124 frames before a training clip are nearly always there; a share of people, voices and
# sentences is held out (val).
"$BIN/openloopy" puppet "$WORK/states" --states --hours "$HOURS" --clip-s 20 --clip-s 32 --clip-s 45 --clip-s 60 \
  --speech "$WORK/speech" --noise-share 0.25 --quiet-share 0.04 --name mini --seed 1 --workers 2

DATA=(--data "$WORK/states" --data "$WORK/speech")
if [ -n "${FOOTAGE:-}" ]; then
  # What the weights in the package learned from; the threshold of today, min_sync_strength, is newer than they are.
  "$BIN/openloopy" prepare "$FOOTAGE" "$WORK/footage" --size 256 --set min_sync_score=2 --set min_sync_strength=none ${HELD_OUT:+--held-out "$HELD_OUT"}
  DATA+=(--data "$WORK/footage")
fi

"$BIN/openloopy" train mini.codec  "${DATA[@]}" --run "$RUN"  # mean and scale of the states: a minute
"$BIN/openloopy" train mini.audio  "${DATA[@]}" --run "$RUN"  # the hearing: speech and filmed lips
"$BIN/openloopy" train mini.stage1 "${DATA[@]}" --run "$RUN" --set loop.device="$DEVICE"
"$BIN/openloopy" train mini.stage2 "${DATA[@]}" --run "$RUN" --set loop.device="$DEVICE" \
  --set training.batch.footage_share=0.2 --set 'training.batch.footage_parts=["mouth"]'

# Held-out puppets, rendered, and portraits: what the finished model makes.
"$BIN/openloopy" puppet "$WORK/eval" --num-clips 14 --clip-s 10 --val-share 0.86 --name eval --seed 3 --workers 2
"$BIN/python" benchmarks/quality.py --model "$RUN/model" --data "$WORK/eval" --people 10 --size 256 --out "$RUN/quality" \
  ${PORTRAITS:+--portraits "$PORTRAITS"} ${SOUNDS:+--sounds "$SOUNDS"}
echo "the model folder is $RUN/model; copy it to src/openloopy/weights/mini to embed it"
