"""Losses fetched from the device by a thread of their own, while the next iteration is on its way."""

import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import EventStorage


class MetricsThread:
    """Runs one piece of work at a time; what it finds goes into an event storage in the order of the calls.

    The storage waits for it as soon as somebody reads, so that readers see what they would see without the
    thread. A failure comes up in `wait`, which all processes of a run reach in the same iteration.
    """

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._future: Future | None = None
        self._group: weakref.ref | None = None

    def start(self, storage: EventStorage, work: Callable[[], Callable[[EventStorage], None]]) -> None:
        """Wait for the work before, then run `work`; what it returns puts its numbers into the storage."""
        self.wait()
        storage._catch_up()
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        self._future = future = self._executor.submit(work)

        def put() -> None:
            if future.exception() is None:
                future.result()(storage)

        storage._put_later(put)

    def wait(self) -> None:
        """Wait for the work, and raise what it raised."""
        future, self._future = self._future, None
        if future is not None:
            future.result()

    def close(self) -> BaseException | None:
        """Wait for the work and let the thread go; gives back what it raised, if `wait` did not yet."""
        future, self._future = self._future, None
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None
        return None if future is None else future.exception()

    def group(self) -> dist.ProcessGroup | None:
        """Processes to exchange objects with, apart from what the main thread exchanges; None for a run of one.

        Every process must call it in the same iteration, from its main thread.
        """
        if comm.get_world_size() == 1:
            return None
        group = None if self._group is None else self._group()
        if group is None:
            group = dist.new_group(backend="gloo")
            # torch owns groups: one that is kept alive here would outlive destroy_process_group.
            self._group = weakref.ref(group)
        return group
