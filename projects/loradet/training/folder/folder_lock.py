"""One training a folder: the lock on it is held by the training itself, or by the study that has started it."""

import contextlib
import errno
import logging
import os
from pathlib import Path

from detectron2.utils import comm

from loradet.errors import UserError
from loradet.locking import LockedError, file_lock, holder
from loradet.run_folder import RunFolder

logger = logging.getLogger(__name__)

HELD_FOLDER = "LORADET_LOCKED_FOLDER"  # environment variable: the folder whose lock is held for this process
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class FolderInUseError(UserError):
    """Another training writes into the folder; the message says which process."""


class FolderLock:
    """The lock of a run folder; the main process holds it for all that are of one training.

    It is free when the block ends, and when its process is killed.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self._held = contextlib.ExitStack()
        self._is_taken = False

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def check(self) -> None:
        """Raise FolderInUseError where another training holds it; nothing is written. A collective call."""
        found = None
        if comm.is_main_process() and not self._is_held_for_us():
            with contextlib.suppress(OSError):  # taking it says what is wrong
                found = holder(RunFolder(self.folder).lock)
        self._agree(found)

    def take(self) -> None:
        """Hold it until the block ends; the folder is made where there is none. A collective call; once is enough.

        Raises:
            FolderInUseError: another training holds it.
            UserError: the folder cannot be written.
        """
        if self._is_taken:
            return
        found = problem = None
        if comm.is_main_process() and not self._is_held_for_us():
            try:
                self._held.enter_context(file_lock(RunFolder(self.folder).lock, str(self.folder), wait=False))
            except LockedError as error:
                found = error.holder
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    logger.warning("The file system of %s has no locks: see that one training writes it.", self.folder)
                else:
                    problem = f"train.output_dir={self.folder} cannot be written: {error.strerror or error}."
        self._agree(found, problem)
        self._is_taken = True

    def _agree(self, found: str | None, problem: str | None = None) -> None:
        # The main process alone looks; all end by the same line.
        found, problem = comm.all_gather((found, problem))[0]
        if found is not None:
            # A lock says nothing yet in the moment that it is taken.
            who, stop = (
                ("Another process", "") if found == "?" else (f"Process {found}", f" (or stop it: kill {found})")
            )
            raise FolderInUseError(
                f"{who} trains in {self.folder}. Wait for its end{stop}, or choose another train.output_dir."
            )
        if problem is not None:
            raise UserError(problem)

    def _is_held_for_us(self) -> bool:
        """Whether whoever has started this process holds it."""
        named = os.environ.get(HELD_FOLDER)
        if not named or Path(named).resolve() != self.folder.resolve():
            return False
        return holder(RunFolder(self.folder).lock) is not None  # else the variable has outlived its time
