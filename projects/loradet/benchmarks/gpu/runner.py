"""Runs sections one after the other in a process beside this one, which is ended where a section takes too long."""

import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from loradet.benchmarks.gpu.sections import Bench, Section
from loradet.errors import one_line, show_traceback

Report = list[dict[str, Any]]


def run_sections(
    sections: Sequence[Section], bench: Bench, *, seconds: float, changed: Callable[[Report], None]
) -> Report:
    """The results of all sections; one that fails or is cut says so and keeps the rows that it had.

    Args:
        sections: in their order.
        bench: for each.
        seconds: for all of them; what is not begun by then is not run.
        changed: is called with the results so far after every row and every section.

    Returns:
        For each section its name, `status` ("done", "failed", "cut" or "not run"), `seconds`, `rows`, and where it is
        not done why, as `error`.
    """
    report: Report = []
    end = time.monotonic() + seconds
    folder = tempfile.mkdtemp()
    worker = _Worker(bench, folder)
    try:
        for section in sections:
            result: dict[str, Any] = {"section": section.name, "status": "not run", "seconds": 0.0, "rows": []}
            report.append(result)
            begin = time.monotonic()
            cap = min(section.cap, end - begin)
            if cap <= 0:
                result["error"] = f"the {seconds:g} s of all sections are over"
            else:
                for kind, value in worker.run(section, begin + cap):
                    if kind == "row":
                        result["rows"].append(value)
                        changed(report)
                    else:
                        result["status"] = kind
                        if value:
                            result["error"] = value
                result["seconds"] = round(time.monotonic() - begin, 1)
                if result["status"] == "cut":
                    result["error"] = f"cut after {cap:.3g} s"
            changed(report)
        worker.finish()
    finally:
        worker.end()
        shutil.rmtree(folder, ignore_errors=True)
    return report


class _Worker:
    """A process that runs sections; a new one takes its place once it is broken.

    Args:
        bench: for each.
        folder: for its temporary files, which it cannot remove where it is ended.
    """

    def __init__(self, bench: Bench, folder: str):
        self._bench, self._folder = bench, folder
        self._process: Any = None
        self._connection: Connection | None = None

    def run(self, section: Section, deadline: float):
        """Yield ("row", row) …, and last ("done", None), ("failed", why) or ("cut", None)."""
        connection = self._connection or self._start()
        connection.send(section.run)
        while True:
            if not connection.poll(max(0.0, deadline - time.monotonic())):
                self.end()
                yield "cut", None
                return
            try:
                kind, value = connection.recv()
            except (EOFError, ConnectionError):
                self._process.join()
                yield "failed", f"its process ended with status {self._process.exitcode}"
                self.end()
                return
            yield kind, value
            if kind == "failed":
                self.end()  # an error may have left the device unusable for its process
            if kind != "row":
                return

    def _start(self) -> Connection:
        # Not forked: CUDA does not outlive a fork.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        # No daemon, since it has data workers of its own.
        self._process = context.Process(target=_serve, args=(theirs, self._bench, self._folder))
        self._process.start()
        theirs.close()
        self._connection = ours
        return ours

    def finish(self) -> None:
        """Let the process end by itself, for a while."""
        if self._connection is not None:
            with contextlib.suppress(ConnectionError):
                self._connection.send(None)
            self._process.join(timeout=10)

    def end(self) -> None:
        """End the process and all that it has started."""
        if self._connection is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._connection = None


def _serve(connection: Connection, bench: Bench, folder: str) -> None:
    os.setsid()  # a group of its own, so that its data workers end with it
    tempfile.tempdir = folder
    while True:
        try:
            named = connection.recv()
        except EOFError:
            return
        if named is None:
            return
        module, _, function = named.partition(":")
        try:
            for row in getattr(importlib.import_module(module), function)(bench):
                connection.send(("row", row))
        except Exception as error:
            show_traceback(error)
            connection.send(("failed", f"{type(error).__name__}: {one_line(error)}"))
        else:
            connection.send(("done", None))
