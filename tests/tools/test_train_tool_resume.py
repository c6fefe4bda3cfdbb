"""A run that is killed, interrupted or fails, and goes on, is the run that was never stopped."""

import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT
from helpers.same_state import same
from helpers.train_tool import (
    TOOL,
    arguments,
    call,
    descendants_alive,
    lines,
    reproducible,
    start,
    succeed,
    wait_for,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from loradet.training.trainer import Trainer

LAST = 23
SETTINGS = [
    f"train.max_iter={LAST + 1}",
    "train.accumulate=2",
    "train.eval_period=5",
    "train.checkpointer.period=4",
    "train.ema.enabled=True",
    "train.clip_grad.max_norm=5.0",
    "dataloader.train.num_workers=2",
    "model.backbone.bottom_up.dropout=0.3",
    "model.test_score_thresh=0.0",
]


@pytest.fixture(scope="module")
def whole(train_data, tmp_path_factory):
    """The run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    succeed(*arguments(train_data, folder, *SETTINGS))
    return folder


def states(folder, name="model_final.pth"):
    return torch.load(folder / name, weights_only=True)


def assert_same_run(folder, whole):
    """Losses, learning rates and metrics of every iteration, once each; weights, averages, moments, generators."""
    assert [reproducible(line) for line in lines(folder)] == [reproducible(line) for line in lines(whole)]
    ours, theirs = states(folder), states(whole)
    assert same(ours["model"], theirs["model"])
    for part in ("optimizer", "ema", "ranks"):
        assert same(ours["trainer"][part], theirs["trainer"][part]), part
    assert ours["trainer"]["hooks"]["EvaluateAndKeepBest"] == theirs["trainer"]["hooks"]["EvaluateAndKeepBest"]
    assert same(states(folder, "model_best.pth")["model"], states(whole, "model_best.pth")["model"])
    ours, theirs = (json.loads((f / "val_metrics.json").read_text()) for f in (folder, whole))
    assert {**ours, "checkpoint": ""} == {**theirs, "checkpoint": ""}
    assert sorted(p.name for p in folder.glob("model_*")) == sorted(p.name for p in whole.glob("model_*"))


def reached(folder, iteration):
    return lambda: any(line["iteration"] >= iteration for line in lines(folder))


def test_a_killed_run_goes_on_as_if_nothing_had_been(train_data, tmp_path, whole):
    folder = tmp_path / "out"
    process = start(*arguments(train_data, folder, *SETTINGS))
    wait_for(reached(folder, 9), process)
    process.kill()
    process.wait()
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    with (folder / "metrics.json").open("a") as file:
        file.write('{"iteration": 99, "total_lo')  # what a kill in the middle of a write leaves

    succeed(*arguments(train_data, folder, "--resume", *SETTINGS))
    assert_same_run(folder, whole)
    record = json.loads((folder / "run.json").read_text())
    assert record["resumed_at"] in (8, 12, 16, 20)
    assert record["status"] == "finished"
    assert record["iteration"] == LAST
    assert record["wall_time_s"] > 0
    events = EventAccumulator(str(folder)).Reload().Scalars("total_loss")
    assert [event.step for event in events] == list(range(LAST + 1))


def test_an_interrupted_run_saves_and_says_how_to_go_on(train_data, tmp_path, whole):
    folder = tmp_path / "a folder with spaces" / "out"
    process = start(*arguments(train_data, folder, *SETTINGS))
    wait_for(reached(folder, 6), process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "interrupted"
    saved = states(folder, (folder / "last_checkpoint").read_text())
    assert saved["iteration"] == record["iteration"] == lines(folder)[-1]["iteration"] >= 6
    assert descendants_alive(process.pid) == []

    python, script, *words = shlex.split(next(line for line in stderr.splitlines() if "--resume" in line))
    assert Path(shutil.which(python) or ROOT / python).samefile(sys.executable)
    assert Path(script).samefile(TOOL)
    succeed(*words)
    assert_same_run(folder, whole)


class CrashError(Exception):
    """Not the user's mistake."""


@pytest.fixture
def crash_at(monkeypatch):
    """Let the training fail at an iteration, once."""

    def arm(iteration):
        step = Trainer.run_step

        def run_step(self):
            if self.iter == iteration:
                monkeypatch.setattr(Trainer, "run_step", step)
                raise CrashError
            step(self)

        monkeypatch.setattr(Trainer, "run_step", run_step)

    return arm


def crash(*args):
    with pytest.raises(CrashError):
        call(*args)


@pytest.mark.slow
def test_crashes_before_and_after_checkpoints_are_made_good(train_data, tmp_path, whole, crash_at):
    folder = tmp_path / "out"
    resume = ()
    # Without a checkpoint yet; in the first step of a resumed run; where the medians' window is full.
    for iteration in (2, 12, 12, 22):
        crash_at(iteration)
        crash(*arguments(train_data, folder, *resume, *SETTINGS))
        assert json.loads((folder / "run.json").read_text())["status"] == "failed"
        resume = ("--resume",)
    succeed(*arguments(train_data, folder, "--resume", *SETTINGS))
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_a_crash_after_the_last_iteration_is_made_good(train_data, tmp_path, whole, monkeypatch):
    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("loradet.training.run.finish_run", lambda *_: (_ for _ in ()).throw(CrashError()))
        crash(*arguments(train_data, folder, *SETTINGS))
    assert not (folder / "val_metrics.json").exists()
    succeed(*arguments(train_data, folder, "--resume", *SETTINGS))
    assert_same_run(folder, whole)
    assert json.loads((folder / "run.json").read_text())["iteration"] == LAST


def test_the_same_words_start_and_resume(train_data, tmp_path):
    succeed(*arguments(train_data, tmp_path, "--resume", "train.max_iter=1", "train.eval_splits=[]"))
    assert [line["iteration"] for line in lines(tmp_path)] == [0]


@pytest.mark.slow
def test_workers_and_micro_batches_do_not_change_the_stream(train_data, tmp_path, crash_at):
    """Resuming with other numbers of workers is allowed: what a sample looks like does not depend on them."""
    words = ["train.max_iter=8", "train.eval_splits=[]"]
    first, second = tmp_path / "first", tmp_path / "second"
    succeed(*arguments(train_data, first, *words, "dataloader.train.num_workers=0"))
    crash_at(5)
    crash(*arguments(train_data, second, *words, "dataloader.train.num_workers=1"))
    succeed(*arguments(train_data, second, *words, "dataloader.train.num_workers=2", "--resume"))
    assert [reproducible(line) for line in lines(first)] == [reproducible(line) for line in lines(second)]


def test_evaluations_between_the_log_s_lines_are_kept_once_each(train_data, tmp_path, crash_at, monkeypatch):
    """Also that of iteration 11, at which the checkpoint is written that the run is resumed from."""
    scores = iter(float(score) for score in range(20))
    monkeypatch.setattr("loradet.training.assemble.evaluate", lambda *_: {"bbox": {"AP": next(scores)}})
    words = ["train.log_period=20", "train.max_iter=18", "train.eval_period=4", "train.checkpointer.period=12"]
    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        # As a kill right after the checkpoint: what is logged later in that iteration, or at the end, is lost.
        patch.setattr("loradet.training.hooks.WriteMetrics.after_step", lambda _: None)
        patch.setattr("loradet.training.hooks.WriteMetrics.after_train", lambda _: None)
        crash_at(12)
        crash(*arguments(train_data, folder, *words))
    assert [line["iteration"] for line in lines(folder)] == [3, 7, 11]
    crash_at(17)
    crash(*arguments(train_data, folder, *words, "--resume"))
    succeed(*arguments(train_data, folder, *words, "--resume"))
    # 15 was evaluated twice, as it is after the last checkpoint; the last number counts.
    expected = [(3, 0.0), (7, 1.0), (11, 2.0), (15, 4.0), (17, 5.0)]
    assert [(line["iteration"], line["bbox/AP"]) for line in lines(folder)] == expected
    assert all("total_loss" in line and "lr" in line for line in lines(folder))
    events = EventAccumulator(str(folder)).Reload().Scalars("bbox/AP")
    assert [(event.step, event.value) for event in events] == expected


def test_early_stopping_survives_a_resume(train_data, tmp_path, crash_at, monkeypatch):
    scores = iter([3.0, 5.0, 4.0, 4.0, 4.0, 4.0])
    monkeypatch.setattr("loradet.training.assemble.evaluate", lambda *_: {"bbox": {"AP": next(scores)}})
    words = [
        *("train.max_iter=40", "train.eval_period=2", "train.checkpointer.period=2"),
        *("train.early_stopping.enabled=True", "train.early_stopping.patience=3"),
    ]
    folder = tmp_path / "out"
    crash_at(8)
    crash(*arguments(train_data, folder, *words))
    succeed(*arguments(train_data, folder, *words, "--resume"))
    record = json.loads((folder / "run.json").read_text())
    assert record["iteration"] == 9  # evaluations 3, 4 and 5 brought nothing
    assert record["stopped_by"].startswith("early stopping: 3 evaluations without a better bbox/AP than 5.0")
    assert record["best"] == {"metric": "bbox/AP", "value": 5.0, "iteration": 3}
    assert json.loads((folder / "val_metrics.json").read_text())["iteration"] == 3
    assert (folder / "adapter.safetensors").is_file()


def test_a_run_that_had_stopped_early_stops_at_once(train_data, tmp_path, monkeypatch):
    words = [
        *("train.max_iter=40", "train.eval_period=2", "train.checkpointer.period=2"),
        *("train.early_stopping.enabled=True", "train.early_stopping.patience=1"),
    ]
    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        scores = iter([3.0, 2.0])
        patch.setattr("loradet.training.assemble.evaluate", lambda *_: {"bbox": {"AP": next(scores)}})
        patch.setattr("loradet.training.run.finish_run", lambda *_: (_ for _ in ()).throw(CrashError()))
        crash(*arguments(train_data, folder, *words))
    succeed(*arguments(train_data, folder, *words, "--resume"))
    record = json.loads((folder / "run.json").read_text())
    assert (record["iteration"], record["best"]["iteration"]) == (3, 1)
    assert [line["iteration"] for line in lines(folder)] == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_drawn_seed_is_kept(train_data, tmp_path, crash_at):
    words = ["train.seed=-1", "train.max_iter=6", "train.eval_splits=[]"]
    folder, again = tmp_path / "out", tmp_path / "again"
    crash_at(4)
    crash(*arguments(train_data, folder, *words))
    seed = json.loads((folder / "run.json").read_text())["seed"]
    assert seed >= 0
    succeed(*arguments(train_data, folder, *words, "--resume"))
    succeed(*arguments(train_data, again, *words[1:], f"train.seed={seed}"))
    assert [reproducible(line) for line in lines(folder)] == [reproducible(line) for line in lines(again)]


@pytest.mark.slow
def test_ema_may_begin_in_the_middle(train_data, tmp_path, crash_at):
    words = ["train.max_iter=5", "train.eval_splits=[]"]
    crash_at(4)
    crash(*arguments(train_data, tmp_path, *words))
    held = states(tmp_path, "model_0000003.pth")["model"]
    succeed(*arguments(train_data, tmp_path, *words, "--resume", "train.ema.enabled=True"))
    final = states(tmp_path)
    assert final["trainer"]["ema"]["steps"] == 1
    for name, value in final["trainer"]["ema"]["averages"].items():
        # The first step of an average has the decay (1 + 1) / (10 + 1).
        torch.testing.assert_close(value, 2 / 11 * held[name] + 9 / 11 * final["model"][name])


def test_resuming_does_not_ask_for_the_initial_weights_again(train_data, tmp_path, whole, crash_at):
    weights = tmp_path / "initial.pth"
    weights.write_bytes((whole / "model_best.pth").read_bytes())
    words = [f"train.init_checkpoint={weights}", "train.max_iter=6", "train.eval_splits=[]"]
    folder = tmp_path / "out"
    crash_at(4)
    crash(*arguments(train_data, folder, *words))
    weights.unlink()
    succeed(*arguments(train_data, folder, *words, "--resume"))
    assert [line["iteration"] for line in lines(folder)] == list(range(6))


def test_an_interrupt_before_training_is_no_traceback(train_data, tmp_path, monkeypatch):
    monkeypatch.setattr("loradet.training.assemble.initial_model", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    status, stderr = call(*arguments(train_data, tmp_path / "out"))
    assert status == 130
    assert "--resume" in stderr
