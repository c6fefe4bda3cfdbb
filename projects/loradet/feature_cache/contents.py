"""What is in image files, told by their hashes; files that have not changed are not read again."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from loradet.datasets.readers.file_cache import FaultyFileError, FileCache, stamp
from loradet.files import reason, sha256

logger = logging.getLogger(__name__)


class Content(NamedTuple):
    """What an image file holds.

    Attributes:
        name: sha256 of it; where entries are of one run alone, the file's name.
        stamp: (bytes, time of change in ns) that the file had before it was hashed; None: it was not.
    """

    name: str
    stamp: tuple[int, int] | None

    def is_still_in(self, file: str) -> bool:
        """Whether the file has not changed since."""
        return self.stamp is None or stamp(file) == self.stamp


def image_contents(files: Sequence[str], folder: Path) -> dict[str, Content]:
    """Contents by file; files that cannot be read are left out.

    Args:
        files: of a data set.
        folder: remembers the hashes of each data set, where it can be written.
    """
    names = sorted(set(files))
    there = {name: found for name in names if (found := stamp(name)) is not None}
    folder = folder / "images"
    set_name = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    cache = _Hashes(folder / f"{set_name}.json", "sha256")
    values, _ = cache.values(there, _hash)
    return {name: Content(value, there[name]) for name, value in values.items()}


def _hash(file: Path) -> str:
    try:
        return sha256(file)
    except OSError as error:
        raise FaultyFileError([f"{file}: {error}"]) from error  # its mapper says so when the image's turn comes


class _Hashes(FileCache):
    """A cache of hashes that does without its file where that cannot be written."""

    def _load(self) -> dict[str, list]:
        try:
            return super()._load()
        except OSError:
            return {}

    def _save(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            super()._save()
        except OSError as error:
            logger.warning("Hashes of images are not kept: %s cannot be written (%s).", self.path, reason(error))
