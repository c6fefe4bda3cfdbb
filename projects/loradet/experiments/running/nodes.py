"""A run on several nodes of a SLURM job: the first node carries it out, all run torchrun for each of its commands."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from loradet.experiments.running.processes import Processes
from loradet.training.launchers import SrunTask
from loradet.training.meeting import meet

_POLL_S = 0.5
# What a node's processes have to end, once those of another node have.
_GRACE_S = 60.0
# torchrun ends processes that take longer to save.
_SAVING_S = 600


class Nodes:
    """The nodes of a job, one task of srun on each; they share a store that the first one keeps.

    Args:
        task: this node's.
        processes: on each node.

    Raises:
        UserError: a node has not come in time.
    """

    def __init__(self, task: SrunTask, processes: int):
        self.task, self.processes = task, processes
        self._store = meet(task.address, task.port, rank=task.rank, count=task.count, name=f"study/{task.name}")
        self._number = -1

    @property
    def is_first(self) -> bool:
        """Whether this node carries the run out; the others `follow`."""
        return self.task.rank == 0

    def begin(self, words: Sequence[str], folder: Path) -> list[str]:
        """Have all nodes run a command by torchrun; returns this node's command line (without the interpreter).

        Args:
            words: of the command, without the interpreter.
            folder: for what the other nodes' processes print.
        """
        self._number += 1
        with socket.create_server(("", 0)) as free:
            port = free.getsockname()[1]
        command = {"words": list(words), "port": port, "folder": str(folder), "directory": str(Path.cwd())}
        self._store.set(f"command/{self._number}", json.dumps(command))
        return self._torchrun(words, port)

    def watch(self, process: subprocess.Popen) -> None:
        """Until this node's process ends: end it where another node's has failed and it has not noticed."""
        threading.Thread(target=self._watch, args=(process, self._number), daemon=True).start()

    def _watch(self, process: subprocess.Popen, number: int) -> None:
        failed_at = None
        while process.poll() is None:
            if failed_at is None and any(self._failed(number, rank) for rank in range(1, self.task.count)):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > _GRACE_S:
                process.terminate()
                return
            time.sleep(_POLL_S)

    def _failed(self, number: int, rank: int) -> bool:
        key = f"ended/{number}/{rank}"
        return self._store.check([key]) and self._store.get(key) != b"0"

    def ended(self) -> None:
        """Wait until the command has ended on the other nodes too, which end it where it does not by itself."""
        self._store.set(f"over/{self._number}", "")
        keys = [f"ended/{self._number}/{rank}" for rank in range(1, self.task.count)]
        deadline = time.monotonic() + 2 * _GRACE_S
        while not self._store.check(keys) and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def dismiss(self) -> None:
        """No command comes any more."""
        self._store.set(f"command/{self._number + 1}", json.dumps(None))

    def follow(self, processes: Processes) -> None:
        """Run this node's share of every command, until there is none any more or the first node has gone."""
        while self._is_there(f"command/{self._number + 1}"):
            self._number += 1
            command = json.loads(self._store.get(f"command/{self._number}"))
            if command is None:
                return
            code = self._carry_out(command, processes)
            self._set(f"ended/{self._number}/{self.task.rank}", str(code))

    def _carry_out(self, command: dict, processes: Processes) -> int:
        console = Path(command["directory"], command["folder"], f"console.node{self.task.rank}.txt")
        console.parent.mkdir(parents=True, exist_ok=True)
        with console.open("ab") as output:
            process = processes.start(
                [sys.executable, *self._torchrun(command["words"], command["port"])],
                cwd=command["directory"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            over_at = None
            while process.poll() is None:
                if over_at is None and self._is_over():
                    over_at = time.monotonic()
                if over_at is not None and time.monotonic() - over_at > _GRACE_S:
                    process.terminate()
                time.sleep(_POLL_S)
            return processes.wait(process)

    def _is_over(self) -> bool:
        """Whether the first node's processes have ended."""
        try:
            return self._store.check([f"over/{self._number}"])
        except torch.distributed.DistError:
            return True  # the first node has gone

    def _is_there(self, key: str) -> bool:
        """Wait for a key; False where the first node has gone."""
        try:
            while not self._store.check([key]):
                time.sleep(_POLL_S)
        except torch.distributed.DistError:
            return False
        return True

    def _set(self, key: str, value: str) -> None:
        try:
            self._store.set(key, value)
        except torch.distributed.DistError:
            return  # the first node has gone, and nobody asks any more

    def _torchrun(self, words: Sequence[str], port: int) -> list[str]:
        options = {
            "nnodes": self.task.count,
            "node-rank": self.task.rank,
            "nproc-per-node": self.processes,
            "master-addr": self.task.address,
            "master-port": port,
        }
        if _has_shutdown_timeout():
            options["shutdown-timeout"] = _SAVING_S
        return ["-m", "torch.distributed.run", *(f"--{key}={value}" for key, value in options.items()), *words]


def _has_shutdown_timeout() -> bool:
    from torch.distributed.run import get_args_parser

    return "--shutdown-timeout" in get_args_parser().format_help()
