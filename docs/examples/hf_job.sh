#!/bin/bash
# What an HF Job runs (docs/hf_jobs.md): goes on with the run that a repository of the Hub holds, or begins it.
#
# LORADET   what pip installs: a git URL or a wheel's
# CONFIG    a config's name
# REPO      USER/NAME of the repository of the run
# OVERRIDES further KEY=VALUE words
set -euo pipefail

pip install --quiet "$LORADET"
folder="$PWD/runs/$(basename "$REPO")"
# Where the Hub cannot be asked this ends the job: a run must not begin anew beside the one that is there.
known=$(python -c 'import sys, huggingface_hub as hub; print(hub.HfApi().repo_exists(sys.argv[1]))' "$REPO")
if [ "$known" = True ]; then
    hf download "$REPO" --local-dir "$folder"
fi
# shellcheck disable=SC2086  (several words)
loradet train --config-file "$CONFIG" --resume --num-gpus "${NUM_GPUS:-1}" data.root=/data \
    train.output_dir="$folder" train.hub.repo_id="$REPO" ${OVERRIDES:-}
