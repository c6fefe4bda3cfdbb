"""A process that has imported torch and loradet once, and forks a training whenever it is asked for one.

Nothing but imports is done before the fork: what a training does, and leaves, is as in a process of its own.
"""

import contextlib
import fcntl
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from helpers.paths import ROOT, TESTS

LIMIT_S = 180.0  # a training takes a few seconds
_POLL_S = 0.005
_LONGEST_OUTPUT = 1 << 20  # bytes
_LAST_WORDS_S = 0.3  # of the other processes of a training, once one is dead


@dataclass(frozen=True)
class Kill:
    """When a training is killed: at a commit of a process, or after some seconds.

    Attributes:
        commit: number of a commit, from 0.
        when: "before" or "after" it.
        after_s: seconds since the fork, in place of a commit.
        rank: the process of the training that is killed; the others follow a moment later.
    """

    commit: int | None = None
    when: str = "before"
    after_s: float | None = None
    rank: int = 0

    def __str__(self) -> str:
        moment = f"{self.when} commit {self.commit}" if self.after_s is None else f"after {self.after_s:.3f} s"
        return f"{moment}{f' (process {self.rank})' if self.rank else ''}"


@dataclass(frozen=True)
class Request:
    """A training to fork.

    Attributes:
        words: of its command line.
        console: file that its output is appended to.
        processes: of the training, as torchrun starts them.
        environment: variables besides.
        kill: when to kill it.
        trace: file that the commits of process 0 are noted in.
        fault: kind and file, for `campaign.file_faults`.
        folder: of the run.
    """

    words: list[str]
    console: str
    processes: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    kill: Kill | None = None
    trace: str | None = None
    fault: tuple[str, str] | None = None
    folder: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        statuses: exit status of each process; negative: the signal that ended it.
        seconds: that it took.
    """

    statuses: list[int]
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether a process was killed."""
        return -signal.SIGKILL in self.statuses

    @property
    def succeeded(self) -> bool:
        """Whether every process ended well."""
        return not any(self.statuses)


class ForkServer:
    """The server, from outside."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
        quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "campaign.fork_server"],
            cwd=ROOT,
            env={**os.environ, **quiet},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=LIMIT_S)

    def run(self, request: Request) -> Outcome:
        """Fork a training and wait for its end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(request)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the fork server has ended"
        return Outcome(**json.loads(answer))


def main() -> None:
    """Answer requests until there are no more."""
    from campaign.forked_training import train

    gc.freeze()  # a collection copies no page
    for line in sys.stdin:
        content = json.loads(line)
        kill = content.pop("kill")
        request = Request(**content, kill=None if kill is None else Kill(**kill))
        port = _free_port()
        # A pipe, since a limit on the size of files would hold for a file.
        output, written = os.pipe()
        fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, _LONGEST_OUTPUT)
        os.set_blocking(output, False)
        begin = time.monotonic()
        pids = []
        for rank in range(request.processes):
            if (pid := os.fork()) == 0:
                train(request, rank, port, written)  # leaves by SystemExit
            pids.append(pid)
        os.close(written)
        statuses = _wait(pids, request.kill)
        _save(output, Path(request.console))
        print(json.dumps(asdict(Outcome(statuses, time.monotonic() - begin))), flush=True)


def _save(output: int, console: Path) -> None:
    """Append what has been printed to a file."""
    with console.open("ab") as file, contextlib.suppress(BlockingIOError):  # a data process may live a moment longer
        while block := os.read(output, 1 << 16):
            file.write(block)
    os.close(output)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(pids: list[int], kill: Kill | None) -> list[int]:
    """Exit statuses of a training's processes. Those that outlive a dead one, or the limit, are killed."""
    begin = time.monotonic()
    kill_at = begin + kill.after_s if kill is not None and kill.after_s is not None else None
    end_at = begin + LIMIT_S
    ended: dict[int, int] = {}
    while len(ended) < len(pids):
        now = time.monotonic()
        if kill_at is not None and kill is not None and now >= kill_at:
            kill_at = None
            _kill({pids[kill.rank]} - ended.keys())
        if now >= end_at:
            _kill(set(pids) - ended.keys())
        for pid in [pid for pid in pids if pid not in ended]:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended[pid] = os.waitstatus_to_exitcode(status)
                if ended[pid] < 0:
                    end_at = min(end_at, now + _LAST_WORDS_S)
        time.sleep(_POLL_S)
    return [ended[pid] for pid in pids]


def _kill(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
