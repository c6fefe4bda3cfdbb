"""Runs the training tool for tests: in this process, or as a user does."""

import contextlib
import hashlib
import importlib.util
import io
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from detectron2.utils.logger import setup_logger

from helpers.paths import ROOT, TEST_CONFIGS
from loradet.training.command import run_command
from loradet.training.folder.metrics_log import read_lines

TOOL = ROOT / "tools" / "lazyconfig_train_net.py"
CONFIG = str(TEST_CONFIGS / "tiny.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}

_spec = importlib.util.spec_from_file_location("lazyconfig_train_net", TOOL)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


def arguments(data: Path | None, output: Path, *words: str, config: str | Path = CONFIG) -> list[str]:
    """Command line of a run; the CPU is asked for, so that numbers are the same on every machine."""
    root = [f"data.root={data}"] if data else []
    return ["--config-file", str(config), *root, f"train.output_dir={output}", "train.device=cpu", *map(str, words)]


def call(*args: str) -> tuple[int, str]:
    """Exit status and standard error of the tool, in this process."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        try:
            status = run_command(tool.parse_arguments(list(args)))
        except SystemExit as stop:
            status = stop.code
        finally:
            # A process of a user's runs one training, whose log file stays open to its end.
            for name in ("detectron2", "loradet", "fvcore"):
                logging.getLogger(name).handlers.clear()
            if forget := getattr(setup_logger, "cache_clear", None):
                forget()  # an installed Detectron2 remembers that it has opened them
    # What torch says at its first import of a machine with CUDA's tools and no GPU.
    return status, "".join(line for line in stderr.getvalue().splitlines(True) if "cpp_extension" not in line)


def succeed(*args: str) -> None:
    """`call`, which must end well."""
    status, stderr = call(*args)
    assert status == 0, stderr


def start(*args: str, launcher: tuple[str, ...] = (), cwd: Path = ROOT, **environment: str) -> subprocess.Popen:
    """The tool as a process of its own, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *launcher, str(TOOL), *args],
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 120) -> None:
    """Poll until a condition holds; fail where the process ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def lines(folder: Path) -> list[dict]:
    """Lines of a run's metrics.json."""
    return read_lines(folder / "metrics.json")


def snapshot(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def reproducible(line: dict) -> dict:
    """What a line of metrics.json says besides times and memory."""
    return {
        k: v for k, v in line.items() if k not in ("time", "data_time", "eta_seconds", "memory_mb", "rank_data_time")
    }


def descendants_alive(group: int) -> list[int]:
    """Processes of a process group that still run."""
    alive = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group:
                    alive.append(int(entry.name))
    return alive
