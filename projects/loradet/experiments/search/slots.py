"""Several runs at a time over any executor, each begun when the one before it in its slot has ended."""

import logging
import queue
import threading
from collections.abc import Sequence

from loradet.errors import is_user_error
from loradet.experiments.results.folders import Result
from loradet.experiments.running.run import Run
from loradet.experiments.running.runner import Executor, failure, run_all

logger = logging.getLogger(__name__)


class RunError(Exception):
    """A run has raised what is no user's mistake: the cause of this.

    Attributes:
        name: of the run.
    """

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


class Slots:
    """Carries out runs in threads: an executor takes a list of runs, and which trial comes next is not known before.

    Args:
        executors: one a slot; one that can carry out several runs at a time may be there several times. One that has
            a method `interrupt` lets its runs save and end by it.
    """

    def __init__(self, executors: Sequence[Executor]):
        self._free = list(executors)
        self._executors = list(dict.fromkeys(executors))
        self._threads: dict[str, threading.Thread] = {}
        self._ended: queue.SimpleQueue[tuple[Run, Result | BaseException, Executor]] = queue.SimpleQueue()

    @property
    def is_free(self) -> bool:
        """Whether another run can begin."""
        return bool(self._free)

    def start(self, run: Run) -> None:
        """Begin a run, which may have been begun before."""
        # A thread of a job that outlives this process does not keep it.
        thread = threading.Thread(target=self._carry_out, args=(run, self._free.pop()), daemon=True, name=run.name)
        self._threads[run.name] = thread
        thread.start()

    def _carry_out(self, run: Run, executor: Executor) -> None:
        try:
            (result,) = run_all([run], executor)
        except BaseException as error:  # which the main thread raises
            result = error
        self._ended.put((run, result, executor))

    def wait(self, seconds: float) -> tuple[Run, Result] | None:
        """The next run that ends, with its result; None where none has ended by then.

        Raises:
            RunError: from what a run has raised that is no user's mistake.
        """
        try:
            run, result, executor = self._ended.get(timeout=seconds)
        except queue.Empty:
            return None
        self._threads.pop(run.name).join()
        self._free.append(executor)
        if isinstance(result, BaseException):
            if not is_user_error(result):
                raise RunError(run.name) from result
            result = failure(run, result)
        return run, result

    def interrupt(self) -> bool:
        """Let runs save and end, where their executors can do that; whether all can."""
        stoppable = [executor.interrupt for executor in self._executors if hasattr(executor, "interrupt")]
        for stop in stoppable:
            stop()
        return len(stoppable) == len(self._executors)

    def __len__(self) -> int:
        return len(self._threads)
