"""`loradet study search` as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import fake_slurm
from helpers.search_trial import LR, RANK, write_search
from helpers.train_tool import ENVIRONMENT, ROOT, lines

from loradet.experiments.search.trial import read_trials

pytest.importorskip("optuna")


def command(file: Path, *words: str) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "tools/experiments.py"),
        "--work-dirs",
        str(file.parent),
        "search",
        str(file),
        *words,
    ]


def call(file: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(file, *words), cwd=ROOT, env=ENVIRONMENT | variables, capture_output=True, text=True, timeout=900
    )


@pytest.mark.slow
def test_a_search_is_interrupted_goes_on_and_leaves_the_best_as_a_config(tmp_path):
    space = {LR: {"loguniform": [1e-4, 1e-2]}, RANK: {"choice": [2, 4]}}
    short = ["train.max_iter=16", "train.eval_period=8", "train.checkpointer.period=8"]
    file = write_search(tmp_path, trials=2, splits=["val", "test"], space=space, overrides=short)
    folder = tmp_path / "tiny_search"
    process = subprocess.Popen(
        command(file), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    first = folder / "trial_000_full"
    deadline = time.monotonic() + 600
    while not (first / "metrics.json").is_file() or len(lines(first)) < 3:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 130, stderr
    assert "the same command goes on" in stderr
    assert [trial.state for trial in read_trials(folder)] == ["open"]
    asked = read_trials(folder)[0].point

    done = call(file)
    assert done.returncode == 0, done.stderr
    trials = read_trials(folder)
    assert [trial.state for trial in trials] == ["finished", "finished"]
    assert trials[0].point == asked
    assert len(lines(first)) == 16
    assert "The number to believe is that of test" in (folder / "search.md").read_text()
    # What `loradet study` knows of runs holds for trials.
    study = [sys.executable, "tools/experiments.py", "--study", str(folder), "--work-dirs", str(folder), "status"]
    told = subprocess.run(study, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert told.stdout.count("finished") == 2, told.stdout + told.stderr
    # The best trains again to the same numbers.
    again = [sys.executable, "tools/lazyconfig_train_net.py", "--config-file", str(folder / "best.py")]
    trained = subprocess.run(again, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert trained.returncode == 0, trained.stderr
    best = folder / trials[json.loads((folder / "trials.json").read_text())["best"]].run
    ours, theirs = (json.loads((one / "val_metrics.json").read_text()) for one in (tmp_path / "tiny_best", best))
    assert ours["coco/bbox_mAP"] == theirs["coco/bbox_mAP"]


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["slurm", "ray"])
def test_trials_are_carried_out_elsewhere(tmp_path, executor):
    """By the stand-in for SLURM's commands, and by Ray on this machine."""
    pytest.importorskip("submitit" if executor == "slurm" else "ray")
    short = ["train.max_iter=8", "train.eval_period=4", "train.checkpointer.period=4"]
    file = write_search(tmp_path, trials=2, splits=["val"], overrides=short)
    home = tmp_path / "cluster"
    home.mkdir()
    # Ray's workers have a niceness of 15, with which they starve beside other tests.
    variables = {"FAKE_SLURM": str(home), "RAY_worker_niceness": "0"}
    if executor == "slurm":
        variables["PATH"] = f"{fake_slurm.install(home)}{os.pathsep}{os.environ['PATH']}"
    done = call(file, "--executor", executor, "--jobs", "2", **variables)
    assert done.returncode == 0, done.stderr
    trials = read_trials(tmp_path / "tiny_search")
    assert [trial.state for trial in trials] == ["finished", "finished"]
    assert all(len(trial.evaluations) == 2 for trial in trials)
    assert (tmp_path / "tiny_search" / "best.py").is_file()
    if executor == "slurm":
        assert sum(line.startswith("sbatch ") for line in (home / "calls").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_mistake_is_one_line_and_what_is_finished_stays(tmp_path):
    write_search(tmp_path, space={"optimizer.lrr": {"uniform": [0, 1]}})
    done = call(tmp_path / "search.yaml")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "no key 'optimizer.lrr'. Nearest: optimizer.lr" in line
