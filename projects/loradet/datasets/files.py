"""Annotation files: paths with variables, clear errors when reading, whole files when writing."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from loradet import paths
from loradet.errors import UserError
from loradet.files import atomic_open, sha256
from loradet.paths import cache_dir as cache_dir
from loradet.remote import is_url, local_copy

PathLike = str | os.PathLike[str]
_PIECE = 8192  # values of an iterator that are written at once
IMAGE_SUFFIXES = (".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")


def expand(path: PathLike) -> Path:
    """The path with `~` and `$VARS` filled in; of a file at a URL, that of its copy here.

    Raises:
        MissingFileError: a variable is not set.
        UserError: the URL cannot be read, see `loradet.remote.local_copy`.
    """
    return local_copy(os.fspath(path)) if is_url(path) else paths.expand(path)


def fingerprint(*parts: object) -> str:
    """Short hash over parts; a Path stands for the bytes of its file."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            digest.update(bytes.fromhex(sha256(part)))
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def fingerprint_of_bytes(data: bytes) -> str:
    """`fingerprint` of a file that holds these bytes."""
    return hashlib.sha256(hashlib.sha256(data).digest() + b"\0").hexdigest()[:16]


def write_coco(path: PathLike, content: dict[str, Any]) -> Path:
    """Write compact JSON whole or not at all, its folder included. NaN raises ValueError.

    Args:
        path: of the file.
        content: an iterator among its values is written as the list of what it gives, of which little is held at once.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path) as file:
        for number, (key, value) in enumerate(content.items()):
            file.write(f"{',' if number else '{'}{_dumps(key)}:")
            if isinstance(value, Iterator):
                _write_list(file, value)
            else:
                file.write(_dumps(value))
        file.write("}" if content else "{}")
    return path


def _write_list(file: IO[str], values: Iterator[Any]) -> None:
    file.write("[")
    is_first = True
    while piece := list(itertools.islice(values, _PIECE)):
        file.write(f"{'' if is_first else ','}{_dumps(piece)[1:-1]}")
        is_first = False
    file.write("]")


def _dumps(value: Any) -> str:
    # dump is several times as slow
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def output_path_of(source: PathLike, target: PathLike) -> Path:
    """The expanded target; UserError where it is the source file itself."""
    target = expand(target)
    if target.resolve() == expand(source).resolve():
        raise UserError(f"{target} is the input itself: give another file for the result.")
    return target
