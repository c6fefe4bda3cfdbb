"""What a Ray task does on a node: one run, in a process of its own that ends with the task's."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradet.experiments.results.folders import Result
from loradet.experiments.running.execution import execute
from loradet.experiments.running.processes import Processes
from loradet.experiments.running.run import Launch, Run
from loradet.experiments.running.runner import failure
from loradet.experiments.running.state import inspect
from loradet.files import write_json

_SHARED_S = 5.0  # a network file system may show a new folder late
_POLL_S = 0.2
# Where Ray itself was started by such a launcher, its nodes have these; a run is none of its processes.
_OF_LAUNCHERS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE"),
)
# Ray's processes block SIGINT, and what they start would too. SIGTERM when the task's process is gone.
_LEADER = """
import ctypes, os, signal, sys
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
with __import__("contextlib").suppress(OSError, AttributeError):
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit(143)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class NodeProblem:
    """Why no run can be carried out on a node."""

    message: str


@dataclass(frozen=True, kw_only=True)
class RayJob:
    """A run as a task of Ray, which pickles it.

    Attributes:
        folder: where the command was started.
        board: folder beside the runs that a node sees if storage is shared; who works on a run is noted there.
        environment: variables of the run's processes.
    """

    run: Run
    launch: Launch
    folder: Path
    board: Path
    environment: Mapping[str, str]

    def __call__(self) -> Result | NodeProblem:
        """Bring the run to its end from wherever it is. Cancelled, it saves and is an interrupted one."""
        if (problem := self._node_problem()) is not None:
            return NodeProblem(problem)
        os.chdir(self.folder)
        if absent := [path for path in self.run.data.annotations if not path.exists()]:
            return NodeProblem(self._unseen(absent[0].absolute()))
        for name in _OF_LAUNCHERS:
            os.environ.pop(name, None)
        write_json(self.note, {"node": socket.gethostname(), "process": os.getpid(), "began": time.time()})
        return _interruptible(self._carry_out)

    @property
    def note(self) -> Path:
        """Says who works on the run."""
        return self.board / f"{self.run.name}.json"

    def _carry_out(self, processes: Processes) -> Result:
        try:
            return execute(self.run, launch=self.launch, environment=self.environment, processes=processes)
        except InterruptedError:
            return inspect(self.run)
        except (ValueError, OSError) as error:
            return failure(self.run, error)

    def _node_problem(self) -> str | None:
        deadline = time.monotonic() + _SHARED_S
        for path in (self.folder, self.board):
            while not path.is_dir():
                if time.monotonic() > deadline:
                    return self._unseen(path if path == self.folder else path.parent)
                time.sleep(_POLL_S)
        return None

    def _unseen(self, path: Path) -> str:
        return f"Node {socket.gethostname()} does not see {path}: expected storage that all nodes of the cluster share."


class _BoundProcesses(Processes):
    """Processes that can be interrupted, and that are told to save and leave when this one is gone."""

    def start(self, words: list[str], **options: Any) -> subprocess.Popen:
        return super().start([sys.executable, "-I", "-c", _LEADER, str(os.getpid()), *words], **options)


def _interruptible(work: Any) -> Any:
    """Call `work` in a thread of its own, so that Ray, which interrupts the main one, never waits for a process."""
    processes, outcome, ended = _BoundProcesses(), [], threading.Event()

    def call() -> None:
        try:
            outcome.append((work(processes), None))
        except BaseException as error:
            outcome.append((None, error))
        finally:
            ended.set()

    thread = threading.Thread(target=call, name="run")
    while not ended.is_set():
        with contextlib.suppress(KeyboardInterrupt):
            if thread.ident is None:
                thread.start()
            # Not `Thread.join`: an interrupted one takes the thread for ended (Python 3.11).
            while not ended.wait(_POLL_S):
                pass
            break
        processes.interrupt()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result
