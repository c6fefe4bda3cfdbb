"""How often a training reads its annotation files."""

import json
import subprocess
import sys

import pytest
from helpers.train_tool import ENVIRONMENT, TOOL, arguments

# An audit hook cannot be taken back, so it is set in a process of its own.
COUNT = """
import collections, json, os, runpy, sys
opened = collections.Counter()
def note(event, values):
    if event == "open" and isinstance(values[0], (str, os.PathLike)) and str(values[0]).endswith(".json"):
        opened[os.path.basename(str(values[0]))] += 1
sys.addaudithook(note)
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
print(json.dumps(opened))
"""


def opened(data, folder, period):
    words = ["train.max_iter=6", f"train.eval_period={period}", "dataloader.train.num_workers=0"]
    command = [sys.executable, "-c", COUNT, str(TOOL), *arguments(data, folder, *words)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_evaluations_do_not_read_the_annotations_again(train_data, tmp_path):
    once, thrice = (opened(train_data, tmp_path / str(period), period) for period in (0, 2))
    assert once["val.json"] == thrice["val.json"] == 1
    assert once["train.json"] == thrice["train.json"] == 1
