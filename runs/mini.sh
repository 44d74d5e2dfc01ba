#!/usr/bin/env bash
# The whole line that made the embedded `mini` model, from portraits to the model folder.
#   PORTRAITS=folder-of-portraits runs/mini.sh        (two CPU cores: about two hours; every command resumes)
# The settings are those of src/openloopy/recipes/mini.py; docs/training.md has the data, times and results.
set -euo pipefail
cd "$(dirname "$0")/.."
PORTRAITS=${PORTRAITS:?name a folder of portraits}
DATA=${DATA:-work/puppets}
RUN=${RUN:-work/runs/mini}
OPENLOOPY=${OPENLOOPY:-.venv/bin/openloopy}

"$OPENLOOPY" puppet --portraits "$PORTRAITS" "$DATA" --num-clips "${CLIPS:-400}" --clip-s 7 --size 256 --workers 2
"$OPENLOOPY" train mini.codec  --data "$DATA" --run "$RUN"
"$OPENLOOPY" train mini.audio  --data "$DATA" --run "$RUN"
"$OPENLOOPY" train mini.stage1 --data "$DATA" --run "$RUN"
"$OPENLOOPY" train mini.stage2 --data "$DATA" --run "$RUN"
.venv/bin/python benchmarks/quality.py --model "$RUN/model" --data "$DATA" --out "$RUN/quality"
echo "the model folder is $RUN/model; copy it to src/openloopy/weights/mini to embed it"
