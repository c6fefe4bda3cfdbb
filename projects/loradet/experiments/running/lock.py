"""One process a run: the lock in its folder."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from loradet import locking
from loradet.run_folder import RunFolder


def run_lock(folder: Path, *, is_stopped: Callable[[], bool] = lambda: False) -> AbstractContextManager[IO]:
    """Hold the lock of a run folder, which is made where there is none; see `loradet.locking.file_lock`."""
    return locking.file_lock(RunFolder(folder).lock, str(folder), is_stopped=is_stopped)


def holder(folder: Path) -> str | None:
    """The process that holds the lock of a run folder (its number, or "?"); None where nobody does."""
    return locking.holder(RunFolder(folder).lock)
