"""The processes that carry runs out, to be interrupted together."""

import contextlib
import os
import signal
import subprocess
import threading
from typing import Any


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
