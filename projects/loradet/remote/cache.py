"""A folder of fetched files: of limited size, shared by processes; the least recently used goes first."""

import contextlib
import errno
import hashlib
import logging
import os
import stat
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from loradet.files import FileError, read_json, write_json
from loradet.locking import file_lock, lock, lock_shared
from loradet.remote.errors import UnreachableError
from loradet.remote.sources import Source, Version, open_source
from loradet.remote.urls import file_name, shown

logger = logging.getLogger(__name__)

_ABOUT = "about.json"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_PARTIAL = ".part-"
_LONG_UNUSED_S = 86400.0  # where there are no locks to tell


@dataclass(frozen=True)
class Held:
    """A file in the cache that is not removed while `handle` is open.

    Attributes:
        path: of the file.
        handle: with the lock that tells others.
    """

    path: Path
    handle: IO


class Cache:
    """Fetched files in a folder, one of each version of a URL: `<URL's hash>/<version's hash>/<name>`.

    Args:
        folder: its own; made where there is none.
        max_bytes: what it may hold. Files in use stay, so it may hold more for a while; None: any size.
    """

    def __init__(self, folder: Path, max_bytes: int | None):
        self.folder = folder
        self.max_bytes = max_bytes

    def get(self, url: str, *, offline: bool = False) -> Held:
        """The file at a URL, as the server has it now; fetched where the cache lacks it, by one process of all.

        Where the server does not answer, what was fetched last counts, with a warning.

        Args:
            offline: ask nobody.

        Raises:
            UnreachableError: the server does not answer, and nothing was fetched yet.
            RemoteError: no such file, or no right to read it.
        """
        home = self.folder / _hash(url)
        home.mkdir(parents=True, exist_ok=True)
        with _lock_of(home.with_suffix(".lock"), shown(url)) as is_alone:
            for partial in home.glob(f"{_PARTIAL}*") if is_alone else ():
                partial.unlink(missing_ok=True)  # of a killed process
            if offline:
                if (held := self._take_last(home)) is None:
                    raise UnreachableError(f"{shown(url)}: LORADET_OFFLINE=1, and it was not fetched yet.")
                return held
            try:
                with open_source(url) as source:
                    return self._get_current(url, home, source)
            except UnreachableError as error:
                if (held := self._take_last(home)) is None:
                    raise
                logger.warning("%s What was fetched last is taken: %s.", error, held.path)
                return held

    def _get_current(self, url: str, home: Path, source: Source) -> Held:
        if (held := self._take(_place(home, url, source.version))) is not None:
            return held
        self.make_room(source.version.size or 0)
        logger.info("Fetching %s.", shown(url))
        held = _fetch(url, home, source)
        write_json(home / _ABOUT, {"url": shown(url), "version": held.path.parent.name, "name": held.path.name})
        with self._locked():
            for file, _ in _files(home):
                if file != held.path:
                    _remove_unused(file)
        self.make_room(0)
        return held

    def _take_last(self, home: Path) -> Held | None:
        try:
            about = read_json(home / _ABOUT)
            return self._take(home / str(about["version"]) / str(about["name"]))
        except (FileError, FileNotFoundError, KeyError):
            return None

    def _take(self, file: Path) -> Held | None:
        """Hold a file and note that it is used; None where it is not there."""
        with self._locked():
            try:
                handle = file.open("rb")
            except FileNotFoundError:
                return None
            _share(handle)
            with contextlib.suppress(PermissionError):  # another user's
                os.utime(file)
            return Held(file, handle)

    def make_room(self, coming: int) -> list[Path]:
        """Remove the least recently used files that nobody uses, until `coming` bytes more fit.

        Returns:
            What was removed.
        """
        if self.max_bytes is None:
            return []
        removed = []
        with self._locked():
            files = sorted(_files(self.folder), key=lambda found: (found[1].st_mtime_ns, found[0]))
            total = sum(status.st_size for _, status in files)
            for file, status in files:
                if total + coming <= self.max_bytes:
                    break
                if _remove_unused(file):
                    removed.append(file)
                    total -= status.st_size
        if total + coming > self.max_bytes:
            logger.warning(
                "The cache in %s holds %.2f GB, more than LORADET_CACHE_GB: the files are in use, or one is larger.",
                *(self.folder, (total + coming) / 1e9),
            )
        return removed

    def _locked(self) -> contextlib.AbstractContextManager[bool]:
        return _lock_of(self.folder / ".lock", str(self.folder))


def _fetch(url: str, home: Path, source: Source) -> Held:
    """Write what a URL holds whole, then let it count; the URL's lock is held."""
    partial = home / f"{_PARTIAL}{uuid.uuid4().hex}"
    try:
        version = source.write_to(partial)
        handle = partial.open("rb")
        os.fsync(handle.fileno())
        _share(handle)  # before others see it
        file = _place(home, url, version)
        file.parent.mkdir(exist_ok=True)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return Held(file, handle)


@contextlib.contextmanager
def _lock_of(path: Path, subject: str) -> Iterator[bool]:
    """Hold a lock; gives False on a file system without locks, where two may fetch the same file."""
    with contextlib.ExitStack() as stack:
        has_locks = True
        try:
            stack.enter_context(file_lock(path, subject))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            has_locks = False
        yield has_locks


def _share(handle: IO) -> None:
    try:
        lock_shared(handle)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Fetched files below a folder, with their sizes and the time when each was used last."""
    found = []
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            status = file.stat()
            is_lock = file.parent == folder and file.suffix == ".lock"  # of a URL; another file fetched may be *.lock
            if is_lock or file.name.startswith(".") or file.name == _ABOUT:
                continue
            if stat.S_ISREG(status.st_mode):
                found.append((file, status))
    return found


def _remove_unused(file: Path) -> bool:
    """Remove a file that no process holds; the lock of the cache is held."""
    try:
        with file.open("rb") as opened:
            if not _is_free(opened):
                return False
            file.unlink()
    except FileNotFoundError:
        return False
    with contextlib.suppress(OSError):  # another version's
        file.parent.rmdir()
    return True


def _is_free(opened: IO) -> bool:
    try:
        return lock(opened)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return time.time() - os.fstat(opened.fileno()).st_mtime > _LONG_UNUSED_S


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _place(home: Path, url: str, version: Version) -> Path:
    # What a server says nothing of may have changed each time.
    mark = uuid.uuid4().hex if version.mark is None else f"{version.mark}\n{version.size}"
    return home / _hash(mark) / file_name(url)
