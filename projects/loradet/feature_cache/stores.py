"""Where entries are kept: a folder that runs share, or the memory of one process."""

import contextlib
import errno
import json
import logging
import mmap
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from loradet.errors import UserError
from loradet.feature_cache.layout import Layout
from loradet.feature_cache.views import View
from loradet.files import atomic_open, reason, remove_abandoned

# Errors after which other entries cannot be written either.
_LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_ABANDONED = 3600.0  # seconds after which nobody writes an entry any more

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """What an entry is of.

    Attributes:
        content: sha256 of the image's file (in memory: its name).
        view: of the image.
    """

    content: str
    view: View

    def __str__(self) -> str:
        return f"{self.content} {self.view.text}"


class Store(Protocol):
    """Keeps rows of bytes of one layout."""

    def find(self, key: Key) -> tuple[bool, Tensor | None]:
        """Whether there is an entry, told in a data process; and its row of bytes, where that is read in there."""

    def read(self, key: Key) -> Tensor | None:
        """An entry's row of bytes; None where there is none, or a damaged one."""

    def write(self, key: Key, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry, where that is possible."""


class DiskStore:
    """A file an entry, in a folder that any number of runs read and write at once.

    A file is written under a temporary name and renamed, so there are whole ones only; its checksum, and what it says
    it is of, are compared whenever it is read. Where nothing can be written (a full disk, a folder of somebody else),
    what is there is still read.

    Args:
        folder: of these entries alone, made where there is none.
        spec: name of what all of them have in common, which each file repeats.
        layout: of the entries.
    """

    def __init__(self, folder: Path, spec: str, layout: Layout) -> None:
        self.folder = folder
        self.spec = spec
        self.layout = layout
        self.is_writable = True
        self._failures: set[int | None] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.stop_writing(error)
        with contextlib.suppress(OSError):  # the next run may
            for part in folder.glob("??"):
                remove_abandoned(part, ["*.safetensors"], older_than=_ABANDONED)

    def path(self, key: Key) -> Path:
        """The file of an entry, there or not."""
        name = f"{zlib.crc32(key.view.text.encode()):08x}"
        return self.folder / key.content[:2] / f"{key.content}-{name}.safetensors"

    def find(self, key: Key) -> tuple[bool, Tensor | None]:
        row = self.read(key)
        return row is not None, row

    def read(self, key: Key) -> Tensor | None:
        path = self.path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        row = self._row(content, key)
        if row is None:
            logger.warning("%s is damaged or of something else; it is computed anew.", path)
        return row

    def _row(self, content: bytes, key: Key) -> Tensor | None:
        try:
            said = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            tensors = safetensors.torch.load(content)
        except (ValueError, LookupError, TypeError, RecursionError, SafetensorError):
            return None
        if not self.layout.fits(tensors):
            return None
        row = self.layout.pack(tensors)
        return row if said == self._metadata(key, row) else None

    def _metadata(self, key: Key, row: Tensor) -> dict[str, str]:
        return {"spec": self.spec, "of": str(key), "crc32": f"{zlib.crc32(row.numpy()):08x}"}

    def write(self, key: Key, tensors: Mapping[str, Tensor]) -> None:
        if not self.is_writable:
            return
        path = self.path(key)
        content = safetensors.torch.save(dict(tensors), self._metadata(key, self.layout.pack(tensors)))
        try:
            # Nothing is waited for: after a power cut, a file that is not whole is none.
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_open(path, "wb", sync=False) as file:
                file.write(content)
        except OSError as error:
            self.note_failure(path, error)

    def note_failure(self, path: Path, error: OSError) -> None:
        """A file could not be written: read only from now on, where others cannot be either. Each kind is said once."""
        if error.errno in _LASTING:
            self.stop_writing(error)
        elif error.errno not in self._failures:
            self._failures.add(error.errno)
            logger.warning("Features are not kept in %s (%s); others may be.", path, reason(error))

    def stop_writing(self, error: OSError) -> None:
        """Read from now on only, and say so."""
        self.is_writable = False
        logger.warning(
            "Features cannot be kept in %s (%s): those that are there are used, the others computed each time.",
            self.folder,
            reason(error),
        )


class MemoryStore:
    """Entries in the memory of this process; its data processes share what tells which there are.

    Args:
        contents: of the images, each once.
        views: of each image.
        layout: of the entries.

    Raises:
        UserError: the system has not as much memory to give.
    """

    def __init__(self, contents: list[str], views: int, layout: Layout) -> None:
        self.layout = layout
        self._views = views
        self._stride = -(-layout.nbytes // 8) * 8  # numbers of any type lie even
        self._place = {content: number for number, content in enumerate(contents)}
        slots = max(len(contents) * views, 1)
        try:
            self._rows = mmap.mmap(-1, slots * self._stride)
        except (OSError, OverflowError, ValueError) as error:
            raise UserError(
                f"train.feature_cache.where=memory: {slots * self._stride / 1e9:.1f} GB are not to be had ({error}); "
                "take where=disk."
            ) from error
        self._there = torch.zeros(slots, dtype=torch.uint8).share_memory_()

    def _slot(self, key: Key) -> int:
        return self._place[key.content] * self._views + key.view.number

    def find(self, key: Key) -> tuple[bool, Tensor | None]:
        return bool(self._there[self._slot(key)]), None

    def read(self, key: Key) -> Tensor | None:
        if not self.find(key)[0]:
            return None
        begin = self._slot(key) * self._stride
        return torch.frombuffer(self._rows, dtype=torch.uint8, count=self.layout.nbytes, offset=begin)

    def write(self, key: Key, tensors: Mapping[str, Tensor]) -> None:
        slot = self._slot(key)
        begin = slot * self._stride
        self._rows[begin : begin + self.layout.nbytes] = self.layout.pack(tensors).numpy().tobytes()
        self._there[slot] = 1

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_rows": None}  # a data process that is not forked needs to know what there is, no more
