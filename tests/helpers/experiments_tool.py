"""Runs tools/experiments.py as a user does, on a tiny study."""

import contextlib
import importlib.util
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import yaml

from helpers.train_tool import CONFIG, ENVIRONMENT, ROOT, lines

TOOL = ROOT / "tools" / "experiments.py"
_spec = importlib.util.spec_from_file_location("experiments", TOOL)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


def write_study(folder: Path, *entries: dict, **values) -> Path:
    """A study.yaml over the tiny detector and scenes of 64 pixels; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "name": "tiny",
        "title": "A tiny grid",
        "scenes": {"root": str(folder / "data"), "size": 64, "counts": {"train": 12, "val": 4}},
        "smoke": {"train_images": 8, "val_images": 3},
        "entries": [_entry(folder, **entry) for entry in entries],
        **values,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


def _entry(folder: Path, id: str, words: list[str] | None = None, **values) -> dict:
    if values.get("kind") == "pictures":
        return {"id": id, "title": id, "objective": "to see", **values}
    same = [f"data.root={folder / 'data'}", "train.device=cpu", "data.image_size=80", "data.max_size=80"]
    return {
        "id": id,
        "title": f"Experiment {id}",
        "objective": "to try",
        "config": CONFIG,
        "overrides": [*same, *(words or [])],
        "splits": ["val"],
        **values,
    }


def command(study: Path, *words: str) -> list[str]:
    return [sys.executable, str(TOOL), "--study", str(study), "--work-dirs", str(study / "runs"), *map(str, words)]


def call(study: Path, *words: str, status: int = 0, seconds: float = 300) -> tuple[str, str]:
    """Standard output and error of the tool, which must end with `status`."""
    done = subprocess.run(
        command(study, *words), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout, done.stderr


def ask(study: Path, *words: str, status: int = 0) -> str:
    """What the tool prints (an error, where it ends with another status than 0), called in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv = [str(word) for word in command(study, *words)[1:]]
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", argv),
        patch.dict("os.environ", ENVIRONMENT),
    ):
        try:
            code = tool.main()
        except SystemExit as stop:  # an error's line, which the interpreter would print
            err.write(f"{stop.code}\n")
            code = 1
    assert code == status, out.getvalue() + err.getvalue()
    return err.getvalue() or out.getvalue()


def start(study: Path, *words: str, ignored: signal.Signals | None = None) -> subprocess.Popen:
    """The tool as a process in a session of its own, which begins with a signal ignored."""
    return subprocess.Popen(
        command(study, *words),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=None if ignored is None else lambda: signal.signal(ignored, signal.SIG_IGN),
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def iterations(folder: Path) -> list[int]:
    """Of the lines of a run's metrics.json; each as often as it is there."""
    return [line["iteration"] for line in lines(folder)] if (folder / "metrics.json").is_file() else []


def training_pid(folder: Path) -> int:
    """The process that holds the lock of a run."""
    return int((folder / ".lock").read_text())


def attempts(folder: Path) -> list[dict]:
    return json.loads((folder / "attempts.json").read_text())
