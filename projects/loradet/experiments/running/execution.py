"""Carries out one run: its command lines, one process after the other, under the lock of its folder."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from loradet.experiments.results.folders import Result
from loradet.experiments.running.lock import run_lock
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
from loradet.training.folder.folder_lock import HELD_FOLDER

CONSOLE = "console.txt"
TAIL = 20  # lines of a failed run's output that are kept with its record
_GRACE_S = 20.0


class Processes:
    """The processes that are running now, to be interrupted together."""

    def __init__(self):
        self._running: set[subprocess.Popen] = set()
        # A signal handler may call `interrupt` while its own thread is in here.
        self._lock = threading.RLock()
        self.stopped = False

    def start(self, words: list[str], **options: Any) -> subprocess.Popen:
        """Start a process. Raises InterruptedError after `interrupt`."""
        with self._lock:
            if self.stopped:
                raise InterruptedError
            # A session of its own: who interrupts the grid does not reach it twice.
            process = subprocess.Popen(words, start_new_session=True, **options)
            self._running.add(process)
        return process

    def wait(self, process: subprocess.Popen) -> int:
        """The exit status of a process that has ended by now."""
        code = process.wait()
        with self._lock:
            self._running.discard(process)
        return code

    def interrupt(self) -> None:
        """Ask all to save and leave, and start no more."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.send_signal(signal.SIGINT)

    def wait_for_all(self) -> None:
        """Return when none is running; a signal handler may call it that has interrupted `wait`."""
        for process in list(self._running):
            # `Popen.wait` holds a lock while it waits; this leaves the exit status to it.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def execute(
    run: Run,
    *,
    launch: Launch | None = None,
    environment: Mapping[str, str] | None = None,
    processes: Processes | None = None,
) -> Result:
    """Bring a run to its end from wherever it is; waits while another process works on it.

    Every try is recorded in the folder's `attempts.json`, what it prints in `console.txt`.

    Args:
        launch: how.
        environment: variables to set besides.

    Returns:
        What the folder holds afterwards; "failed" with the last words where a process ended badly.

    Raises:
        InterruptedError: `processes` were interrupted before this run began.
    """
    processes, launch = processes or Processes(), launch or Launch()
    with run_lock(run.folder, is_stopped=lambda: processes.stopped) as lock:
        result = inspect(run, ignore_lock=True)
        afresh = needs_overwrite(result)
        if result.state in ("finished", "waiting") or (afresh and not launch.overwrite):
            return result
        launch = replace(launch, overwrite=afresh)
        # A second round evaluates what a finished training has no metrics file of.
        for _ in range(2):
            for words in _commands(run, result, launch):
                attempt = _try(words, run.folder, lock, dict(environment or {}), processes)
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


def _try(words: list[str], folder: Path, lock: Any, environment: dict[str, str], processes: Processes) -> dict:
    console = folder / CONSOLE
    began = time.time()
    with console.open("ab") as output:
        start = output.tell()
        process = processes.start(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", HELD_FOLDER: str(folder.absolute()), **environment},
            # The process keeps the lock if this one is killed.
            pass_fds=(lock.fileno(),),
        )
        set_holder(lock, process.pid)
        code = processes.wait(process)
        if code < 0:
            _end_group(process.pid)
    with console.open("rb") as output:
        output.seek(start)
        text = output.read().decode("utf-8", "replace")
    # A progress bar ends its states by carriage returns.
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    attempt = {"command": words, "began": began, "ended": time.time(), "exit_code": code, "log_tail": lines[-TAIL:]}
    write_json(folder / ATTEMPTS, [*read_attempts(folder), attempt])
    return attempt


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
