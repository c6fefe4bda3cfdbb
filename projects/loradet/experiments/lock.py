"""One process a run: a lock in its folder that is free again the moment that its holder is gone, killed or not."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

FILE = ".lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[IO]:
    """Hold the lock of a run folder, waiting for it; gives the open file, which a child process may inherit.

    The lock is free when this process and every child that inherited the file are gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
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


def holder(folder: Path) -> str | None:
    """The process that holds the lock of a run folder (its number, or "?"); None where nobody does."""
    path = folder / FILE
    if not path.is_file():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "?"
    return None
