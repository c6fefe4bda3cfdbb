"""What is in image files, told by their hashes; files that have not changed are not read again."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from loradet.datasets.readers.file_cache import FaultyFileError, FileCache, stamp
from loradet.files import sha256

logger = logging.getLogger(__name__)


def image_hashes(files: Sequence[str], folder: Path) -> dict[str, str]:
    """sha256 by file; files that cannot be read are left out.

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
    return values


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
            logger.warning("Hashes of images are not kept: %s cannot be written (%s).", self.path, error)
