"""Carries out one run: its command lines, one process after the other, under the lock of its folder."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from loradet.experiments.results.folders import Result
from loradet.experiments.running.lock import run_lock
from loradet.experiments.running.nodes import Nodes
from loradet.experiments.running.processes import Processes
from loradet.experiments.running.run import Launch, Run
from loradet.experiments.running.state import (
    ATTEMPTS,
    INTERRUPTED,
    inspect,
    missing_splits,
    needs_overwrite,
    output_tail,
    read_attempts,
    unpainted_sources,
)
from loradet.files import write_json
from loradet.locking import set_holder
from loradet.run_folder import RunFolder
from loradet.training.folder.folder_lock import HELD_FOLDER
from loradet.training.launchers import STEP
from loradet.training.signals import EXIT_STATUS

CONSOLE = "console.txt"
TAIL = 20  # lines of a failed run's output that are kept with its record
_GRACE_S = 20.0


def execute(
    run: Run,
    *,
    launch: Launch | None = None,
    environment: Mapping[str, str] | None = None,
    processes: Processes | None = None,
    nodes: Nodes | None = None,
) -> Result:
    """Bring a run to its end from wherever it is; waits while another process works on it.

    Every try is recorded in the folder's `attempts.json`, what it prints in `console.txt`.

    Args:
        launch: how.
        environment: variables to set besides.
        nodes: on which torchrun starts each training and evaluation; None: this one alone.

    Returns:
        What the folder holds afterwards; "failed" with the last words where a process ended badly.

    Raises:
        InterruptedError: `processes` were interrupted before this run began.
    """
    processes, launch = processes or Processes(), launch or Launch()
    nodes = None if run.entry.kind == "pictures" else nodes
    with run_lock(run.folder, is_stopped=lambda: processes.stopped) as lock:
        result = inspect(run, ignore_lock=True)
        afresh = needs_overwrite(result)
        if result.state in ("finished", "waiting") or (afresh and not launch.overwrite):
            return result
        launch = replace(launch, overwrite=afresh)
        # A second round evaluates what a finished training has no metrics file of.
        for _ in range(2):
            for words in _commands(run, result, launch):
                attempt = _try(words, run.folder, lock, dict(environment or {}), processes, nodes)
                if attempt["exit_code"]:
                    return _unsuccessful(inspect(run, ignore_lock=True), attempt)
            result = inspect(run, ignore_lock=True)
            if result.state != "incomplete":
                break
        return result


def _commands(run: Run, result: Result, launch: Launch) -> list[list[str]]:
    if run.entry.kind == "pictures":
        return run.commands(sources=unpainted_sources(run))
    evaluate_only = missing_splits(run) if result.state == "incomplete" else []
    return run.commands(launch, evaluate_only=evaluate_only)


def _try(
    words: list[str],
    folder: Path,
    lock: Any,
    environment: dict[str, str],
    processes: Processes,
    nodes: Nodes | None,
) -> dict[str, Any]:
    console = folder / CONSOLE
    # Tasks of srun may each work on runs of their own: what is started here is no task.
    inherited = {name: value for name, value in os.environ.items() if name != STEP}
    began = time.time()
    with console.open("ab") as output:
        start = output.tell()
        words = words if nodes is None else nodes.begin(words, folder)
        process = processes.start(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**inherited, "PYTHONUNBUFFERED": "1", HELD_FOLDER: str(folder.absolute()), **environment},
            # The process keeps the lock if this one is killed.
            pass_fds=(lock.fileno(),),
        )
        set_holder(lock, process.pid)
        if nodes is not None:
            nodes.watch(process)
        code = processes.wait(process)
        if nodes is not None:
            nodes.ended()
        if code < 0:
            _end_group(process.pid)
    if code and nodes is not None and (processes.stopped or _saved_and_left(folder, began)):
        code = EXIT_STATUS[signal.SIGINT]  # torchrun's own says nothing of why
    with console.open("rb") as output:
        output.seek(start)
        text = output.read().decode("utf-8", "replace")
    attempt = {
        "command": words,
        "began": began,
        "ended": time.time(),
        "exit_code": code,
        "log_tail": _last_lines(text, with_torchrun=nodes is not None),
    }
    write_json(folder / ATTEMPTS, [*read_attempts(folder), attempt])
    return attempt


def _saved_and_left(folder: Path, began: float) -> bool:
    """Whether this try of a training was interrupted and has said so, as by a file `stop`."""
    run = RunFolder(folder)
    is_new = run.record.is_file() and run.record.stat().st_mtime >= began
    return is_new and run.read_record().get("status") == "interrupted"


def _last_lines(text: str, *, with_torchrun: bool) -> list[str]:
    # A progress bar ends its states by carriage returns.
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    if with_torchrun:
        # Behind what a process has said torchrun has its own traceback.
        said = [number for number, line in enumerate(lines) if line.startswith("error")]
        lines = lines[: said[-1] + 1] if said else lines
    return lines[-TAIL:]


def _end_group(leader: int) -> None:
    """What a killed process has started ends by itself, or is ended: it holds no lock."""
    deadline = time.monotonic() + _GRACE_S
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(leader, 0)
            time.sleep(0.1)
        os.killpg(leader, signal.SIGKILL)


def _unsuccessful(result: Result, attempt: dict[str, Any]) -> Result:
    if attempt["exit_code"] in INTERRUPTED:
        return result
    return replace(result, state="failed", detail=output_tail(attempt), metrics={})
