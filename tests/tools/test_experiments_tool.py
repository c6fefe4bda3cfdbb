"""tools/experiments.py as a user runs it: whole grids on the CPU, killed, interrupted, broken."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.experiments_tool import ask, attempts, call, iterations, start, training_pid, wait_until, write_study
from helpers.train_tool import ENVIRONMENT, ROOT, snapshot

RANK = "model.backbone.bottom_up.rank"
SHORT = ["train.max_iter=4"]
LONG = ["train.max_iter=16"]  # long enough to be met on its way


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def assert_equal_weights(one, other):
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Three experiments, two seeds, from nothing to the end, then pictures; and what was printed."""
    study = write_study(
        tmp_path_factory.mktemp("grid"),
        {"id": "r2", "words": SHORT, "seeds": [0, 1]},
        {"id": "r3", "words": [*SHORT, f"{RANK}=3"], "seeds": [0, 1], "baselines": ["r2"]},
        {"id": "long", "words": LONG, "seeds": [0, 1], "baselines": ["r2"]},
        {"id": "seen", "kind": "pictures", "sources": ["r3", "r2"], "images": 3},
    )
    printed, _ = call(study, "run", "--jobs", "2", seconds=600)
    return study, printed


RUNS = [f"{id}_full_seed{seed}" for id in ("r2", "r3", "long") for seed in (0, 1)]


@pytest.mark.slow
def test_a_grid_runs_from_nothing_to_its_end(grid):
    study, printed = grid
    for name in RUNS:
        folder = study / "runs" / name
        assert json.loads((folder / "run.json").read_text())["status"] == "finished"
        assert json.loads((folder / "val_metrics.json").read_text())["data"] == "synthetic"
        assert [attempt["exit_code"] for attempt in attempts(folder)] == [0]
        assert (folder / "adapter.safetensors").is_file()
        assert iterations(folder) == list(range(16 if "long" in name else 4))
        assert f"{name}: finished" in printed
    assert "[7/7] seen_full: finished" in printed


@pytest.mark.slow
def test_a_seed_is_all_that_differs_between_seeds(grid):
    study, _ = grid
    ours, theirs = (weights(study / "runs" / f"r2_full_seed{seed}") for seed in (0, 1))
    assert any(not torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.slow
def test_pictures_show_all_sources_on_the_same_images(grid):
    study, _ = grid
    exports = [study / "runs" / "seen_full" / f"{id}_full_seed0" for id in ("r3", "r2")]
    painted = [{path.name for path in (export / "pictures").iterdir()} for export in exports]
    assert painted[0] == painted[1]
    assert len(painted[0]) == 3
    assert all(json.loads((export / "manifest.json").read_text())["data"] == "synthetic" for export in exports)
    printed, _ = call(study, "status", "seen")
    assert "finished (synthetic)" in printed


@pytest.mark.slow
def test_a_finished_grid_is_left_as_it_is(grid):
    study, _ = grid
    times = {path: path.stat().st_mtime_ns for path in (study / "runs").rglob("*") if path.is_file()}
    printed, _ = call(study, "run", "--jobs", "2")
    assert printed.count("already finished") == 7
    files = {path: path.stat().st_mtime_ns for path in (study / "runs").rglob("*") if path.is_file()}
    assert {path for path in files if files[path] != times.get(path)} == set()


@pytest.mark.slow
def test_a_report_is_made_of_it(grid):
    study, _ = grid
    printed = ask(study, "report", "--output", study / "report")
    files = [Path(line) for line in printed.split()]
    assert {file.suffix for file in files} >= {".html", ".md", ".tsv"}
    text = next(file for file in files if file.suffix == ".html").read_text()
    assert all(f"Experiment {id}" in text for id in ("r2", "r3", "long"))
    assert "synthetic" in text


@pytest.mark.slow
def test_the_study_is_told_in_words(grid):
    study, _ = grid
    status = ask(study, "status")
    assert all(f"{name} " in status for name in [*RUNS, "seen_full"])
    assert status.count("finished (synthetic)") == 7  # the pictures too

    collected = json.loads(ask(study, "collect", "r3"))
    assert [(run["seed"], run["state"]) for run in collected] == [(0, "finished"), (1, "finished")]
    saved = json.loads((study / "runs/r3_full_seed1/val_metrics.json").read_text())
    assert collected[1]["metrics"]["val"]["coco/bbox_mAP"] == saved["coco/bbox_mAP"]

    ask(study, "ledger", "--num-gpus", "3", "--output", study / "ledger.md")
    ledger = (study / "ledger.md").read_text()
    assert all(f"## {id}: " in ledger for id in ("r2", "r3", "long", "seen"))
    assert "[x] long_full_seed0: finished (synthetic)" in ledger
    assert "--num-gpus 3" in ledger
    assert f"{study}/runs/r3_full_seed1/adapter.safetensors" in ledger
    assert "Memory" in ledger and "Time an epoch" in ledger
    chosen = ask(study, "ledger", "r3")
    assert "## r3: " in chosen and "## r2: " not in chosen
    ask(study, "zoo", "r3", "--output", study / "pages" / "zoo.md")
    zoo = (study / "pages" / "zoo.md").read_text()
    (link,) = re.findall(r"\[r3\]\((.*?)\)", zoo)
    assert (study / "pages" / link).is_file()

    shown = ask(study, "show", "r3")
    assert f"{RANK}: 2 -> 3" in shown
    assert "train.seed=1" in shown
    assert "head" in shown
    listed = ask(study, "list")
    assert listed.startswith("tiny: A tiny grid")
    assert [line.split()[0] for line in listed.splitlines()[3:]] == ["r2", "r3", "long", "seen"]


@pytest.mark.slow
def test_a_dry_run_and_dumped_commands_change_nothing(grid):
    study, _ = grid
    before = snapshot(study)
    dry = ask(study, "run", "--dry-run", "--seeds", "0", "5")
    assert "r2_full_seed0: nothing to do" in dry
    assert "r2_full_seed5: to run" in dry
    dumped = ask(study, "run", "r2", "--dump-commands", "--num-gpus", "2")
    assert dumped.count("tools/lazyconfig_train_net.py") == 2
    assert "--num-gpus 2 --resume" in dumped
    assert snapshot(study) == before


@pytest.mark.slow
def test_dumped_commands_run_in_a_shell(grid, tmp_path):
    """They make the same run as the grid, from no data on."""
    source, _ = grid
    study = write_study(tmp_path, {"id": "r2", "words": SHORT, "seeds": [0, 1]})
    dumped = ask(study, "run", "--seeds", "0", "--dump-commands")
    (study / "commands.sh").write_text(dumped.replace("python ", f"{sys.executable} "))
    done = subprocess.run(["bash", "-e", study / "commands.sh"], cwd=ROOT, env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert_equal_weights(study / "runs" / "r2_full_seed0", source / "runs" / "r2_full_seed0")
    assert "r2_full_seed0: nothing to do" in ask(study, "run", "--seeds", "0", "--dry-run")


def copied(grid, tmp_path):
    """Another study with the grid's data."""
    shutil.copytree(grid[0] / "data", tmp_path / "data", copy_function=os.link)
    return tmp_path


@pytest.mark.slow
def test_a_killed_grid_goes_on_where_it_was(grid, tmp_path):
    """kill -9 on the grid leaves its training alone; the next call waits for that, and trains nothing twice."""
    study = write_study(
        copied(grid, tmp_path), {"id": "long", "words": LONG, "seeds": [0, 1]}, {"id": "r2", "words": SHORT}
    )
    folder = study / "runs" / "long_full_seed0"
    first = start(study, "run", "--seeds", "0")
    wait_until(lambda: len(iterations(folder)) >= 2, first)
    orphan = training_pid(folder)
    os.kill(orphan, signal.SIGSTOP)  # so that it is met on its way, however slow the machine
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert "long_full_seed0: to wait for" in ask(study, "run", "--seeds", "0", "--dry-run")
    os.kill(orphan, signal.SIGCONT)
    ask(study, "run", "--seeds", "0")
    for ours in (folder, study / "runs" / "r2_full"):
        assert json.loads((ours / "run.json").read_text())["status"] == "finished"
    assert iterations(folder) == list(range(16))
    assert_equal_weights(folder, grid[0] / "runs" / folder.name)
    with pytest.raises(ProcessLookupError):
        os.kill(orphan, 0)
    assert not (folder / "attempts.json").exists()  # the orphan's own end was enough
    assert json.loads((folder / "run.json").read_text())["resumed_at"] is None


@pytest.mark.slow
def test_killed_with_all_that_it_started_it_goes_on_from_the_checkpoint(grid, tmp_path):
    """As a machine that goes down: grid and training are gone at once."""
    study = write_study(copied(grid, tmp_path), {"id": "long", "words": LONG, "seeds": [0, 1]})
    folder = study / "runs" / "long_full_seed0"
    first = start(study, "run", "--seeds", "0")
    wait_until(lambda: len(iterations(folder)) >= 5, first)
    os.kill(first.pid, signal.SIGKILL)
    os.killpg(training_pid(folder), signal.SIGKILL)
    first.communicate()
    ask(study, "run", "--seeds", "0")
    assert iterations(folder) == list(range(16))
    assert_equal_weights(folder, grid[0] / "runs" / folder.name)
    assert json.loads((folder / "run.json").read_text())["resumed_at"] >= 2


@pytest.mark.slow
def test_a_killed_training_fails_alone_and_is_resumed(grid, tmp_path):
    study = write_study(
        copied(grid, tmp_path),
        {"id": "long", "words": LONG, "seeds": [0, 1]},
        {"id": "check", "words": SHORT, "checks": {"metric_at_least": {"val coco/bbox_mAP": 0.99}}},
        {"id": "bad", "words": [*SHORT, "optimizer.lr=1e30"]},
    )
    folder = study / "runs" / "long_full_seed0"
    process = start(study, "run", "--seeds", "0", "--jobs", "3")
    wait_until(lambda: len(iterations(folder)) >= 4, process)
    os.kill(training_pid(folder), signal.SIGKILL)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 1, printed
    assert "long_full_seed0: failed  (ended by SIGKILL)" in printed
    (attempt,) = attempts(folder)
    assert attempt["exit_code"] == -signal.SIGKILL
    assert any("iter:" in line for line in attempt["log_tail"])

    # The others went on, to ends of their own.
    assert "check_full: failed  (check metric_at_least: val coco/bbox_mAP is" in printed
    assert json.loads((study / "runs/check_full/run.json").read_text())["status"] == "finished"
    (attempt,) = attempts(study / "runs" / "bad_full")
    assert attempt["exit_code"] == 1
    assert "error: " in attempt["log_tail"][-1]
    status = ask(study, "status", "--seeds", "0")
    states = {line.split()[0]: line.split()[1] for line in status.splitlines()[2:]}
    assert states == {"long_full_seed0": "failed", "check_full": "failed", "bad_full": "failed"}

    ask(study, "run", "long", "--seeds", "0")
    assert iterations(folder) == list(range(16))
    assert [attempt["exit_code"] for attempt in attempts(folder)] == [-9, 0]
    assert_equal_weights(folder, grid[0] / "runs" / folder.name)


@pytest.mark.slow
def test_a_changed_config_is_refused_and_nothing_is_overwritten(grid, tmp_path):
    words = {"id": "r2", "words": SHORT, "seeds": [0, 1]}
    study = write_study(copied(grid, tmp_path), words)
    folder = study / "runs" / "r2_full_seed0"
    shutil.copytree(grid[0] / "runs" / "r2_full_seed0", folder)
    assert "r2_full_seed0: nothing to do" in ask(study, "run", "--dry-run", "--seeds", "0")
    write_study(tmp_path, {**words, "words": [*SHORT, f"{RANK}=4"]})
    before = snapshot(study / "runs")
    printed = ask(study, "run", "--seeds", "0", status=1)
    assert printed.splitlines()[2].split()[1] == "changed"
    assert f"{folder} holds a run of another config: {RANK} is 4, was 2; --overwrite starts afresh" in printed
    assert {name: file for name, file in snapshot(study / "runs").items() if ".lock" not in name} == {
        name: file for name, file in before.items() if ".lock" not in name
    }
    assert "refused" in ask(study, "run", "--seeds", "0", "--dry-run")
    ask(study, "run", "--seeds", "0", "--overwrite")
    assert any(value.shape[0] == 4 for name, value in weights(folder).items() if name.endswith("lora_a"))


@pytest.mark.slow
def test_a_lost_metrics_file_is_made_again_without_training(grid, tmp_path):
    study = write_study(copied(grid, tmp_path), {"id": "r2", "words": SHORT, "seeds": [0, 1]})
    folder = study / "runs" / "r2_full_seed0"
    shutil.copytree(grid[0] / "runs" / "r2_full_seed0", folder)
    file = folder / "val_metrics.json"
    kept = json.loads(file.read_text())
    file.unlink()
    before = snapshot(folder)
    assert "r2_full_seed0: to evaluate" in ask(study, "run", "--seeds", "0", "--dry-run")
    ask(study, "run", "--seeds", "0")
    made = json.loads(file.read_text())
    for place in ("checkpoint", "annotations"):  # the study is a copy, elsewhere
        del made[place], kept[place]
    assert made == kept
    after = snapshot(folder)
    assert all(after[name] == before[name] for name in ("model_final.pth", "metrics.json", "run.json"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_grid_saves_and_goes_on(grid, tmp_path, number):
    study = write_study(copied(grid, tmp_path), {"id": "long", "words": LONG, "seeds": [0, 1]})
    folders = [study / "runs" / f"long_full_seed{seed}" for seed in (0, 1)]
    process = start(study, "run", ignored=signal.SIGINT)  # as a shell does in the background
    wait_until(lambda: len(iterations(folders[0])) >= 3, process)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert json.loads((folders[0] / "run.json").read_text())["status"] == "interrupted"
    assert not (folders[1] / "run.json").exists()
    status = ask(study, "status")
    assert "interrupted" in status
    assert "missing" in status
    ask(study, "run", "--seeds", "0")
    assert iterations(folders[0]) == list(range(16))
    assert_equal_weights(folders[0], grid[0] / "runs" / folders[0].name)


@pytest.mark.parametrize("num_gpus", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.slow
def test_a_smoke_run_has_the_size_that_is_asked_for(tmp_path, num_gpus):
    """On data that stand in for those of the study, and says so."""
    study = write_study(
        tmp_path,
        {"id": "r2", "words": SHORT},
        scenes=None,
        stand_in={"root": str(tmp_path / "stand_in"), "size": 64, "counts": {"train": 8, "val": 3}},
    )
    size = ["--smoke-train-images", "6", "--smoke-val-images", "2", "--smoke-epochs", "2"]
    printed = ask(study, "run", "r2", "--smoke", *size, "--num-gpus", num_gpus)
    folder = study / "runs" / "r2_smoke"
    assert "finished (synthetic)" in printed
    metrics = json.loads((folder / "smoke_metrics.json").read_text())
    assert metrics["data"] == "synthetic"
    record = json.loads((folder / "run.json").read_text())
    assert (record["processes"], record["data"]["train"]["num_images"]) == (num_gpus, 6)
    assert record["data"]["val"]["num_images"] == 2
    assert iterations(folder) == [0, 1, 2, 3]  # 6 images are 2 steps of 4
    assert "finished (synthetic)" in ask(study, "status", *size)
    assert ask(study, "run", "--smoke", "--smoke-epochs", "0", status=1).startswith("error: --smoke-epochs")


@pytest.mark.slow
def test_a_smoke_grid_runs_to_its_report_by_one_command(tmp_path):
    """Though a run fails; and `report` takes smoke runs where there are no others, and says so."""
    study = write_study(tmp_path, {"id": "r2", "words": SHORT}, {"id": "bad", "words": [*SHORT, "optimizer.lr=1e30"]})
    printed = ask(study, "run", "--smoke", "--report", "--jobs", "2", status=1)
    assert "r2_smoke" in printed
    report = study / "runs" / "tiny_report"
    assert str(report / "report.html") in printed.splitlines()
    text = (report / "report.md").read_text()
    assert "1 of 2 runs are finished" in text
    assert "Results on smoke" in text
    assert "not finite at iteration" in text

    first, *files = ask(study, "report", "--output", study / "again").splitlines()
    assert first.startswith("No full run has begun: this is the report of the smoke runs")
    assert str(study / "again" / "report.html") in files
    again = (study / "again" / "report.md").read_text()
    assert again.partition("## Runs")[0] == text.partition("## Runs")[0]
    full = ask(study, "report", "--mode", "full", "--output", study / "full")
    assert not full.startswith("No full run")
    assert "0 of 2 runs are finished" in (study / "full" / "report.md").read_text()
    # Of some entries alone, in a folder of one's own.
    ask(study, "run", "--smoke", "--report", "r2", "--output", study / "own")
    assert "1 of 1 runs are finished" in (study / "own" / "report.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--dry-run", "--report"], "--report is for runs that are carried out"),
        (["run", "--output", "somewhere"], "--output is the folder of --report"),
        (["run", "r9"], "has no entry r9"),
        (["show", "r9"], "has no entry r9"),
        (["run", "--jobs", "0"], "--jobs 0"),
        (["run", "--slurm", "x=1"], "--slurm is for --executor slurm"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, message):
    study = write_study(tmp_path, {"id": "r2", "words": SHORT})
    (line,) = ask(study, *words, status=1).splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_report_of_no_runs_says_so(tmp_path):
    study = write_study(tmp_path, {"id": "r2", "words": SHORT})
    assert "None of 1 runs is finished" in ask(study, "report")


@pytest.mark.slow
def test_a_metrics_file_cut_in_half_fails_its_run_alone(grid, tmp_path):
    study = write_study(copied(grid, tmp_path), {"id": "r2", "words": SHORT, "seeds": [0, 1]})
    for seed in (0, 1):
        shutil.copytree(grid[0] / "runs" / f"r2_full_seed{seed}", study / "runs" / f"r2_full_seed{seed}")
    file = study / "runs" / "r2_full_seed0" / "val_metrics.json"
    file.write_text(file.read_text()[:40])
    before = snapshot(study / "runs")
    printed = ask(study, "run", status=1)
    assert f"Entry r2: {file} is cut short" in printed
    assert [line.split()[1] for line in printed.splitlines()[2:]] == ["failed", "finished"]
    assert snapshot(study / "runs") == before
    for command in ("status", "collect"):
        printed = ask(study, command)
        assert "broken" in printed
        assert f"Entry r2: {file} is cut short" in printed
    ask(study, "report", "--output", study / "report")
    assert "1 of 2; seed 0 broken" in (study / "report" / "report.md").read_text()
