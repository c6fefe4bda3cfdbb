"""One training a folder, signals that let it save, and what a killed one leaves."""

import fcntl
import json
import logging
import os
import signal
import time

import pytest
import torch
from helpers.train_tool import arguments, call, descendants_alive, lines, reproducible, start, succeed, wait_for

from loradet.checkpoint import Checkpointer
from loradet.locking import file_lock, holder
from loradet.run_folder import RunFolder
from loradet.training.folder.folder_lock import HELD_FOLDER
from loradet.training.trainer import Trainer

LONG = ["train.max_iter=4000", "train.eval_splits=[]", "dataloader.train.num_workers=2"]
SHORT = ["train.max_iter=3", "train.eval_splits=[]", "dataloader.train.num_workers=0"]


def begun(folder, iteration=2):
    return lambda: any(line["iteration"] >= iteration for line in lines(folder))


def end(process):
    """Kill what is left of a process and of what it has started."""
    for pid in descendants_alive(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def errors(text):
    return [line for line in text.splitlines() if line.startswith("error")]


def test_a_second_training_is_refused_and_a_killed_one_leaves_nothing_behind(train_data, tmp_path):
    folder = tmp_path / "out"
    process = start(*arguments(train_data, folder, *LONG))
    try:
        wait_for(begun(folder), process)
        for words in ((), ("--resume",), ("train.overwrite=True",)):
            status, text = call(*arguments(train_data, folder, *words, *SHORT))
            assert status == 1
            assert errors(text) == [
                f"error: Process {process.pid} trains in {folder}. Wait for its end (or stop it: kill {process.pid}), "
                "or choose another train.output_dir."
            ]
        assert [line["iteration"] for line in lines(folder)] == list(range(len(lines(folder))))
        log = (folder / "log.txt").read_text()
        assert log.count("Starting at iteration") == 1

        process.kill()
        process.wait()
        assert holder(RunFolder(folder).lock) is None  # at once: its data processes have no part in it
        deadline = time.monotonic() + 5
        while descendants_alive(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert descendants_alive(process.pid) == []
    finally:
        end(process)
    last = torch.load(folder / (folder / "last_checkpoint").read_text(), weights_only=True)["iteration"]

    ours = [".run.json.abcd_123.tmp", ".model_0000777.pth.x0000000.tmp", ".last_checkpoint.12345678.tmp"]
    others = [".attempts.json.abcd_123.tmp", ".notes.tmp", "run.json.tmp"]
    for name in (*ours, *others):
        (folder / name).write_text("half")
    written = folder / ".adapter.safetensors.abcd_123.tmp"  # by another program, now
    with written.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        succeed(*arguments(train_data, folder, "--resume", *LONG, f"train.max_iter={last + 3}"))
        assert written.exists()
    assert [name for name in (*ours, *others) if (folder / name).exists()] == others
    assert "Removed half-written files" in (folder / "log.txt").read_text()
    assert [line["iteration"] for line in lines(folder)] == list(range(last + 3))
    assert holder(RunFolder(folder).lock) is None


def test_who_has_started_a_training_may_hold_its_lock(train_data, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    words = arguments(train_data, folder, *SHORT)
    with file_lock(RunFolder(folder).lock, "the run"):
        monkeypatch.setenv(HELD_FOLDER, str(tmp_path / "another"))
        assert call(*words)[0] == 1
        monkeypatch.setenv(HELD_FOLDER, str(folder))
        succeed(*words)
    # A variable that has outlived its time does not leave the folder open.
    with monkeypatch.context() as patch:
        step = Trainer.run_step

        def run_step(self):
            assert holder(RunFolder(folder).lock) == str(os.getpid())
            step(self)

        patch.setattr(Trainer, "run_step", run_step)
        succeed(*words, "train.overwrite=True")


@pytest.mark.parametrize("to_all", [pytest.param(False, marks=pytest.mark.slow), True])
def test_sigterm_saves(train_data, tmp_path, to_all):
    """Also where what ends a job sends it to all processes, the data processes too."""
    folder = tmp_path / "out"
    process = start(*arguments(train_data, folder, *LONG))
    try:
        wait_for(begun(folder), process)
        os.killpg(process.pid, signal.SIGTERM) if to_all else process.terminate()
        _, text = process.communicate(timeout=60)
        assert process.returncode == 143, text
        assert errors(text) == [] and "Traceback" not in text
        assert "Interrupted by SIGTERM; everything is saved. Go on with:" in text
        assert descendants_alive(process.pid) == []
    finally:
        end(process)
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["stopped_by"]) == ("interrupted", "SIGTERM")
    saved = torch.load(folder / (folder / "last_checkpoint").read_text(), weights_only=True)
    assert saved["iteration"] == record["iteration"] == lines(folder)[-1]["iteration"]
    ending = f"Training ends after iteration {saved['iteration']}: interrupted by SIGTERM, and saved."
    assert ending in (folder / "log.txt").read_text()


def test_sigterm_before_training_says_how_to_go_on(train_data, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "loradet.training.assemble.initial_model", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)
    )
    before = signal.getsignal(signal.SIGTERM)
    status, text = call(*arguments(train_data, tmp_path / "out"))
    assert status == 143
    assert "--resume" in text
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [False, True])
def test_several_processes_hold_one_lock_and_save_on_sigterm(train_data, tmp_path, to_all):
    folder = tmp_path / "out"
    process = start(*arguments(train_data, folder, "--num-gpus", "2", *LONG, "dataloader.train.num_workers=0"))
    try:
        wait_for(begun(folder), process, seconds=240)
        status, text = call(*arguments(train_data, folder, "--resume", *SHORT))
        assert status == 1 and f"trains in {folder}" in errors(text)[0]
        os.killpg(process.pid, signal.SIGTERM) if to_all else process.terminate()
        _, text = process.communicate(timeout=120)
        assert process.returncode == 143, text
        assert errors(text) == [] and "Traceback" not in text
        assert "everything is saved" in text
    finally:
        end(process)
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    saved = torch.load(folder / (folder / "last_checkpoint").read_text(), weights_only=True)
    assert len(saved["trainer"]["ranks"]) == 2
    assert saved["iteration"] == lines(folder)[-1]["iteration"]
    assert holder(RunFolder(folder).lock) is None


def test_a_line_is_on_disk_before_its_checkpoint_counts(train_data, tmp_path, monkeypatch):
    seen = []
    save = Checkpointer.save

    def noting(self, name, **kwargs):
        if not kwargs.get("only_model"):
            seen.append((kwargs["iteration"], [line["iteration"] for line in lines(tmp_path)]))
        save(self, name, **kwargs)

    monkeypatch.setattr(Checkpointer, "save", noting)
    succeed(*arguments(train_data, tmp_path, "train.max_iter=7", "train.checkpointer.period=2"))
    assert seen == [(last, list(range(last + 1))) for last in (1, 3, 5, 6)]
    assert all(reproducible(line)["lr"] > 0 for line in lines(tmp_path))


class FaultError(Exception):
    """Not the user's mistake."""


def test_every_end_says_why(train_data, tmp_path, monkeypatch, capsys):
    words = [*arguments(train_data, tmp_path / "a"), "dataloader.train.num_workers=0", "train.eval_period=1"]

    def why(folder):
        found = [line for line in (folder / "log.txt").read_text().splitlines() if "Training ends" in line]
        (line,) = found or [None]
        assert line is None or line.partition("Training ends")[2] in capsys.readouterr().out
        return line and line.partition("Training ends ")[2]

    succeed(*words, "train.max_iter=2")
    assert why(tmp_path / "a") == "after iteration 1: all 2 iterations (train.max_iter) are done."
    monkeypatch.setattr("loradet.training.assemble.evaluate", lambda *_: {"bbox": {"AP": 5.0}})
    stopping = ["train.early_stopping.enabled=True", "train.early_stopping.patience=2"]
    succeed(*words, *stopping, f"train.output_dir={tmp_path / 'b'}")
    assert why(tmp_path / "b") == (
        "after iteration 2: early stopping: 2 evaluations without a better bbox/AP than 5.0000."
    )

    def fail(self):  # noqa: ARG001
        raise FaultError("of the device")

    monkeypatch.setattr(Trainer, "run_step", fail)
    with pytest.raises(FaultError):
        call(*words, f"train.output_dir={tmp_path / 'c'}")
    for text in ((tmp_path / "c" / "log.txt").read_text(), capsys.readouterr().out):
        assert "The run has failed: FaultError: of the device" in text
    assert logging.getLogger("loradet").handlers == []
