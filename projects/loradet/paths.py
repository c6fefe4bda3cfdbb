"""Paths with variables, and the folder for what can be made again."""

import os
import tempfile
from pathlib import Path

from loradet.errors import MissingFileError


def expand(path: str | os.PathLike[str]) -> Path:
    """The path with `~` and `$VARS` filled in.

    Raises:
        MissingFileError: a variable is not set.
    """
    text = os.path.expandvars(Path(path).expanduser())
    if "$" in text:
        raise MissingFileError(
            f"{os.fspath(path)!r} names an environment variable that is not set: export it, or write the path out."
        )
    return Path(text)


def cache_dir(*parts: str) -> Path:
    """A writable folder for what can be made again.

    `$LORADET_CACHE`, else `~/.cache/loradet` (or under `$XDG_CACHE_HOME`), else a temporary one of this user.
    """
    base = os.environ.get("LORADET_CACHE")
    if base:
        folder = expand(base).joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = home.joinpath("loradet", *parts)
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # no home, or a read-only one
        pass
    # Named after the user, and private: others must not be able to place files here.
    folder = Path(tempfile.gettempdir()) / f"loradet-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user: set LORADET_CACHE to a folder of your own.")
    folder = folder.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
