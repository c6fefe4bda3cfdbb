"""What uploads of a run while it trains have in common: when, what, in which thread, and what a failure does."""

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import ClassVar

from detectron2.engine import HookBase

from loradet.errors import UserError, one_line
from loradet.run_folder import RunFolder
from loradet.training.folder import record
from loradet.training.hooks.stages import Stage

logger = logging.getLogger(__name__)

# Large files, which are always replaced as a whole, and small ones, which may grow while they are sent.
LARGE = (RunFolder.CHECKPOINTS, RunFolder.ADAPTER)
SMALL = (
    *(RunFolder.CONFIG, RunFolder.LAST, RunFolder.METRICS, RunFolder.SPLIT_METRICS),
    *(RunFolder.PARAMETERS, RunFolder.RECORD, RunFolder.OPERATING_POINT),
)


class OtherRunError(UserError):
    """Where uploads go there is another run."""


class RunUpload(HookBase):
    """Keeps a place elsewhere equal to the run's folder, in a thread beside training.

    While one upload runs, the next checkpoint waits for the one after it. An upload that fails is a warning, and the
    next one makes up for it. Nothing here stops training.

    Attributes:
        folder: of the run.
        kept: names of the checkpoints that training keeps, in the folder or from before it.
    """

    stage = Stage.UPLOAD
    large: ClassVar[tuple[str, ...]] = LARGE
    small: ClassVar[tuple[str, ...]] = SMALL

    def __init__(self, folder: Path):
        self.folder = folder
        self.kept = _nothing
        self._is_due = False
        self._thread: threading.Thread | None = None
        self._states: dict[str, tuple[int, int]] = {}  # name -> size, time of change, as they were sent
        self._sent: set[str] = set()  # what this run has sent and may delete
        self._identities: list[str] = []  # config hashes that this run has or had
        self._failure: Exception | None = None

    @property
    def url(self) -> str:
        """Where it goes, for people."""
        raise NotImplementedError

    @property
    def by_hand(self) -> str:
        """The end of a sentence: how to send all files by hand."""
        raise NotImplementedError

    def create(self, config_sha256: str, *, resume: bool) -> None:
        """Look whose the place is, before this run's `run.json` is written.

        Args:
            config_sha256: of this run, as in its record.
            resume: the folder's run goes on, with all that it has sent.

        Raises:
            UserError: it holds another run, or writing there is not allowed.
        """
        raise NotImplementedError

    def checkpoint_saved(self) -> None:
        """Upload at the end of this step, when its metrics are written."""
        self._is_due = True

    def after_step(self) -> None:
        """Begin an upload where one is due and none runs."""
        if not self._is_due or (self._thread is not None and self._thread.is_alive()):
            return
        self._is_due = False
        with self._tolerated():
            arguments = (self._changes(), f"Iteration {self.trainer.iter}")
            self._thread = threading.Thread(target=self._commit, args=arguments, daemon=True)
            self._thread.start()

    def finish(self, status: str) -> None:
        """Wait for the running upload, then upload what is left; says whether all is there.

        Args:
            status: of the run.
        """
        if self._thread is not None:
            self._thread.join()
        logger.info("Uploading to %s.", self.url)
        with self._tolerated():
            self._commit(self._changes(), f"Run {status}")
        shutil.rmtree(self._snapshot, ignore_errors=True)
        if self._failure is None:
            logger.info("Everything is in %s.", self.url)
            return
        logger.error(
            "The last upload to %s failed (%s). All files are in %s; upload them by%s",
            *(self.url, one_line(self._failure), self.folder, self.by_hand),
        )

    @property
    def _snapshot(self) -> Path:
        raise NotImplementedError

    def _commit(self, changes: dict[str, bytes | Path], message: str) -> None:
        raise NotImplementedError

    def _remember(self, config_sha256: str, resume: bool, earlier: Collection[str] = ()) -> None:
        # A resumed run may have another config by now, and the place the record of before.
        past = record.read(self.folder).get("config_sha256") if resume else None
        self._identities = list(dict.fromkeys(filter(None, (*earlier, past, config_sha256))))

    def _changes(self) -> dict[str, bytes | Path]:
        """All that has changed since the last commit, by name, held as it is now: training goes on meanwhile."""
        shutil.rmtree(self._snapshot, ignore_errors=True)
        self._snapshot.mkdir()
        changes: dict[str, bytes | Path] = {}
        for name, path in matching(self.folder, self.large).items():
            if self._states.get(name) != state(path):
                changes[name] = held = self._snapshot / name.replace("/", "__")
                _link(path, held)
        for name, path in matching(self.folder, self.small).items():
            changes[name] = path.read_bytes()
        return changes

    @contextlib.contextmanager
    def _tolerated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failure = error
            logger.warning("Upload to %s failed, the next one makes up for it: %s", self.url, one_line(error))


def _nothing() -> Collection[str]:
    return ()


def matching(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    """Files of a folder by their names relative to it, in order."""
    found = {path for pattern in patterns for path in folder.glob(pattern) if _is_whole(path)}
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}


def _is_whole(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")  # what is being written has such a name


def state(path: Path) -> tuple[int, int]:
    """What tells one content of a file from the next: size and time of change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _link(path: Path, held: Path) -> None:
    # A hard link keeps the content when the file is replaced or deleted; not every file system has them.
    try:
        os.link(path, held)
    except OSError:
        shutil.copy2(path, held)
