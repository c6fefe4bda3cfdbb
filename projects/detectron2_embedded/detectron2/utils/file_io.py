"""Paths (`PathManager`: local files, http(s), `detectron2://`) and files that are replaced whole."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from iopath.common.file_io import HTTPURLHandler, OneDrivePathHandler, PathHandler
from iopath.common.file_io import PathManager as _IoPathManager

__all__ = ["PathHandler", "PathManager"]

# One object for all, so that a handler that a user registers holds everywhere.
PathManager = _IoPathManager()


class Detectron2Handler(PathHandler):
    """Resolves `detectron2://...` to Detectron2's public model zoo, downloaded once into iopath's cache."""

    PREFIX = "detectron2://"
    MODEL_ZOO = "https://dl.fbaipublicfiles.com/detectron2/"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        return PathManager.get_local_path(self.MODEL_ZOO + path.removeprefix(self.PREFIX), **kwargs)

    def _open(self, path: str, mode: str = "r", **kwargs: Any) -> IO:
        return Path(self._get_local_path(path)).open(mode, **kwargs)


PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(OneDrivePathHandler())
PathManager.register_handler(Detectron2Handler())


@contextmanager
def replace_file(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Write a file so that a reader, or a killed run, finds the old content or the new, never half of it.

    Args:
        path: local, or anything that `PathManager` can write (which is then written in place).
        mode: "w" or "wb".
    """
    path = os.fspath(path)
    if "://" in path:
        with PathManager.open(path, mode) as file:
            yield file
        return
    target = Path(path)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read; others get what the umask allows.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except BaseException:
        temporary.unlink()
        raise
    _sync_folder(target.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system can (not on Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
