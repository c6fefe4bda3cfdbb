#!/usr/bin/env bash
# Optuna 5.0.0: a study in a journal file (JournalFileBackend) that is gone on with.
#
# Three trials; then the file loses its last bytes, as when a disk was full or a machine lost power in the middle of a
# write; the study is loaded again and one more trial is tried.
#
# One would guess that the cut line is passed over, or that loading says what is wrong and nothing is written.
#
# What happens: the study loads, with its three trials. Going on writes the next line behind the cut one, without a line
# break between, and ends in a JSONDecodeError. From then on the study cannot be loaded at all: all trials are lost to
# Optuna, until somebody repairs the file by hand.
#
# And: the sampler's state is not in the storage. TPESampler(seed=0) and RandomSampler(seed=0), made anew for a study that
# is loaded, ask for the points of its beginning again, for as long as they are random (TPE: the first 10 trials).
#
# Ends with status 1 where any of this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet optuna==5.0.0

cat > try.py <<'PYTHON'
import json
import warnings
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def load(file, sampler=None):
    storage = JournalStorage(JournalFileBackend(file))
    return optuna.create_study(storage=storage, study_name="s", sampler=sampler, load_if_exists=True)


def objective(trial):
    return trial.suggest_float("x", 0, 1)


load("cut.log").optimize(objective, n_trials=3)
file = Path("cut.log")
file.write_bytes(file.read_bytes()[:-20])
study = load("cut.log")
print("loaded:", len(study.trials), "trials")
for what in ("going on", "loading again"):
    try:
        study.optimize(objective, n_trials=1) if what == "going on" else load("cut.log")
        print(f"{what}: well")
    except json.JSONDecodeError:
        print(f"{what}: JSONDecodeError")

for sampler in (optuna.samplers.TPESampler, optuna.samplers.RandomSampler):
    name = sampler.__name__
    for _ in range(2):
        load(f"{name}.log", sampler(seed=0)).optimize(objective, n_trials=3)
    points = [trial.params["x"] for trial in load(f"{name}.log").trials]
    print(f"{name}: points asked again: {points[:3] == points[3:]}")
PYTHON

cat > expected.txt <<'TEXT'
loaded: 3 trials
going on: JSONDecodeError
loading again: JSONDecodeError
TPESampler: points asked again: True
RandomSampler: points asked again: True
TEXT
venv/bin/python try.py | tee found.txt
diff expected.txt found.txt
