"""File locks between processes; released the moment that the holder ends, killed or not."""

import fcntl
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

_POLL_S = 0.2

_open: "weakref.WeakSet[IO]" = weakref.WeakSet()


class LockedError(BlockingIOError):
    """Another process holds a lock.

    Attributes:
        holder: its number, or "?".
    """

    def __init__(self, subject: str, holder: str):
        super().__init__(f"Process {holder} works on {subject}.")
        self.holder = holder


@contextmanager
def file_lock(
    path: Path, subject: str, *, wait: bool = True, is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[IO]:
    """Hold a lock, waiting for it; gives its open file, which a child process may inherit.

    The lock is free when this process and every child that was started with the file (`pass_fds`) are gone. Children
    that are forked, as data processes are, have no part in it.

    Args:
        path: the lock's file, made where there is none; it stays when the lock is free.
        subject: what is locked, for messages.
        wait: until it is free; otherwise it is an error that it is not.
        is_stopped: asked while waiting.

    Raises:
        LockedError: another process holds it, and `wait` is False.
        InterruptedError: stopped while waiting.
        OSError: the file cannot be written, or its file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        _open.add(file)
        tries = 0
        while not _try(file, fcntl.LOCK_EX):
            if not wait and tries:  # the first time it may be no more than somebody's look
                raise LockedError(subject, _holder_of(file))
            if is_stopped():
                raise InterruptedError
            tries += 1
            if wait and tries == 2:
                logger.info("Waiting for process %s, which works on %s.", _holder_of(file), subject)
            time.sleep(_POLL_S)
        try:
            set_holder(file, os.getpid())
            yield file
        finally:
            # An inherited file keeps the lock: closing, not unlocking, leaves it to the child.
            file.truncate(0)


def set_holder(file: IO, pid: int) -> None:
    """Write whose lock it is, for messages."""
    file.seek(0)
    file.truncate()
    file.write(f"{pid}\n")
    file.flush()


def holder(path: Path) -> str | None:
    """The process that holds a lock (its number, or "?"); None where nobody does."""
    if not path.is_file():
        return None
    with path.open() as file:
        return None if _try(file, fcntl.LOCK_SH) else _holder_of(file)


def _try(file: IO, operation: int) -> bool:
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder_of(file: IO) -> str:
    file.seek(0)
    return file.read().strip() or "?"


def lock(file: IO) -> bool:
    """Lock an open file until it is closed; False where another process has locked it.

    Raises:
        OSError: its file system has no locks.
    """
    return _try(file, fcntl.LOCK_EX)


def lock_shared(file: IO) -> bool:
    """Share an open file with others until it is closed, so that nobody can `lock` it; False where somebody has.

    Raises:
        OSError: its file system has no locks.
    """
    return _try(file, fcntl.LOCK_SH)


def _close_in_child() -> None:
    for file in list(_open):
        file.close()


os.register_at_fork(after_in_child=_close_in_child)
