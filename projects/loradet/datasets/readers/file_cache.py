"""A cache of results computed from files, each valid until its file changes."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from loradet.errors import UserError
from loradet.files import atomic_open

logger = logging.getLogger(__name__)

_THREADS = 4  # reading waits for the disk or the network more than for Python


class FaultyFileError(UserError):
    """A file that cannot be used; `faults` says why, a line each, with the file's name."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


def stamp(path: str) -> tuple[int, int] | None:
    """(bytes, time of change in ns) of a file; None where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 (a Path for each of many files costs seconds)
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


class FileCache:
    """Values by file, valid while path, bytes and time of change are the same; one JSON file holds them.

    Two processes may use the same file: it is replaced as a whole, and what the last one did not know is read again.

    Args:
        path: the JSON file; one that is absent, broken or of another `version` counts as empty.
        version: whatever the values depend on besides the files.
    """

    def __init__(self, path: Path, version: str) -> None:
        self.path = path
        self.version = version
        self._entries = self._load()

    def values(
        self,
        files: Mapping[str, tuple[int, int]],
        read: Callable[[Path], Any],
        *,
        progress: Callable[[Iterable, int], Iterable] = lambda items, _: items,
    ) -> tuple[dict[str, Any], list[str]]:
        """Values of files, of which only new and changed ones are read; then the cache is saved.

        Args:
            files: stamps by path.
            read: gives a file's value, plain enough for JSON, or raises FaultyFileError. Runs in threads.
            progress: wraps the iterable of what is read, of a given length.

        Returns:
            Values by path, without those of faulty files; and the faults of all of these, in the order of `files`.
        """
        values, stale, faults = {}, [], []
        for file, current in files.items():
            entry = self._entries.get(file)
            if entry is not None and entry[:2] == list(current):
                values[file] = entry[2]
            else:
                stale.append((file, current))
        kept = {name: self._entries[name] for name in values}
        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(lambda item: _attempt(read, Path(item[0])), stale)
            for (file, current), (value, wrong) in progress(zip(stale, found), len(stale)):
                faults += wrong
                if not wrong:
                    values[file] = value
                    kept[file] = [*current, value]
        if kept.keys() != self._entries.keys() or stale:
            self._entries = kept
            self._save()
        return values, faults

    def _load(self) -> dict[str, list]:
        try:
            content = json.loads(self.path.read_bytes())
            return dict(content["files"]) if content["version"] == self.version else {}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError) as error:
            logger.warning("%s is broken (%s) and is made anew.", self.path, error)
            return {}

    def _save(self) -> None:
        with atomic_open(self.path) as file:
            # dumps: dump writes piece by piece in Python, several times as slow.
            file.write(json.dumps({"version": self.version, "files": self._entries}, separators=(",", ":")))


def _attempt(read: Callable[[Path], Any], file: Path) -> tuple[Any, list[str]]:
    try:
        return read(file), []
    except FaultyFileError as error:
        return None, error.faults
