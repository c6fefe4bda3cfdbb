"""Image files of a command line: files, folders and patterns."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from loradet.errors import MissingFileError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def find_images(inputs: Sequence[str | os.PathLike]) -> list[Path]:
    """Image files of a list of files, folders and glob patterns, each once, in the order of the list.

    A folder stands for all images below it, by name; a pattern, in which `**` stands for any folders, for the files
    that match it.

    Raises:
        FileNotFoundError: an entry stands for no file.
    """
    found: dict[Path, Path] = {}
    for entry in inputs:
        files = _expand(Path(entry))
        if not files:
            kind = f"holds no image ({', '.join(SUFFIXES)})" if Path(entry).is_dir() else "is no file, folder or match"
            raise MissingFileError(f"{entry} {kind}.")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _expand(entry: Path) -> list[Path]:
    if entry.is_file():
        return [entry]
    if entry.is_dir():
        return sorted(path for path in entry.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    matches = sorted(glob.glob(str(entry), recursive=True))  # noqa: PTH207 (an absolute pattern is fine here)
    return [path for path in map(Path, matches) if path.is_file()]


def common_folder(files: Sequence[Path]) -> Path:
    """The deepest folder that all files lie in, absolute."""
    return Path(os.path.commonpath([path.absolute().parent for path in files]))
