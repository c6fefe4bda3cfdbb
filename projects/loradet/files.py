"""Files that are written whole or not at all, and JSON that is read with one wording for all that can be wrong."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

from loradet.errors import MissingFileError, UserError
from loradet.locking import lock


class FileError(UserError):
    """A file is cut short, no JSON, or holds something else than expected; the message names it."""


class WriteError(UserError, OSError):
    """A file cannot be written: the message names it, and the system's reason. What was there is as it was."""

    def __init__(self, path: str | os.PathLike, error: OSError):
        advice = " Make room, then try again." if error.errno in FULL else ""
        super().__init__(f"{path} cannot be written: {reason(error)}.{advice}")
        self.errno = error.errno


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, of one's share of it, of what a file may hold


def reason(error: OSError) -> str:
    """What the system says, without number and file, as "No space left on device"."""
    return os.strerror(error.errno) if error.errno else str(error)


@contextmanager
def write_errors(path: str | os.PathLike) -> Iterator[None]:
    """Inside the block a file is written; an error that names none, it or a temporary one of it becomes WriteError."""
    try:
        yield
    except OSError as error:
        is_other = isinstance(error, (UserError, ConnectionError, TimeoutError))
        if is_other or error.errno is None or not _is_of(Path(path), error.filename):
            raise
        raise WriteError(path, error) from error
    except RuntimeError as error:
        # torch's writer of archives, for which the system's own error was no more than a wrong position.
        cause = error.__context__
        if not isinstance(cause, OSError) or cause.errno not in FULL:
            raise
        raise WriteError(path, cause) from error


def _is_of(path: Path, named: Any) -> bool:
    """Whether the file that an error names is one, or a temporary one beside it; also where none is named."""
    if named is None:
        return True
    other = Path(os.fsdecode(named)) if isinstance(named, str | bytes | os.PathLike) else None
    return other is not None and other.parent == path.parent and path.stem in other.name


_LONGEST_NAME = 255 - len("..12345678.tmp")  # bytes: of file systems, less what a temporary name has besides


@contextmanager
def atomic_open(path: str | os.PathLike, mode: str = "w", *, sync: bool = True) -> Iterator[IO]:
    """Open a temporary file beside `path` for writing; it takes the place of `path` when the block ends well.

    Args:
        path: the file to write; its folder must exist.
        mode: "w" (UTF-8 text) or "wb".
        sync: wait until the disk has it, so that it is whole after a power cut too.

    Raises:
        WriteError: it cannot be written, for want of room or of rights.
    """
    path = Path(path)
    encoding = None if "b" in mode else "utf-8"
    handle, temporary = _temporary(path, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with write_errors(path), os.fdopen(handle, mode, encoding=encoding) as file:
            # Its lock tells it from what a killed process has left (`remove_abandoned`).
            with contextlib.suppress(OSError):
                lock(file)
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
            _replace(Path(temporary), path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary file beside `path`, of the same ending, for what opens files by itself.

    It takes the place of `path` when the block ends well and something was written to it.

    Raises:
        WriteError: as `atomic_open`.
    """
    path = Path(path)
    handle, name = _temporary(path, prefix=f".{path.stem}.", suffix=f".tmp{path.suffix}")
    os.close(handle)
    temporary = Path(name)
    try:
        with write_errors(path):
            yield temporary
            if temporary.stat().st_size:
                with temporary.open("rb") as written:
                    os.fsync(written.fileno())
                _replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path, *, prefix: str, suffix: str) -> tuple[int, str]:
    try:
        return tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=suffix)
    except OSError as error:  # its file is one that nobody has asked for
        raise WriteError(path, error) from error


def _replace(temporary: Path, path: Path) -> None:
    # mkstemp makes private files; give this one the permissions that an ordinary open would have given.
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    temporary.replace(path)


def truncate_file_name(name: str) -> str:
    """A file's name that `atomic_open` can write: a long one is cut, and a hash of the whole keeps it from others.

    Args:
        name: without folders; its ending stays.
    """
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return name
    stem, ending = os.path.splitext(name)  # noqa: PTH122 (a Path takes no name that is too long for the system)
    mark = f"-{hashlib.sha256(encoded).hexdigest()[:12]}{ending}"
    cut = os.fsencode(stem)[: _LONGEST_NAME - len(os.fsencode(mark))]
    return cut.decode(errors="ignore") + mark


def remove_abandoned(folder: Path, patterns: Iterable[str], *, older_than: float = 0.0) -> list[str]:
    """Remove temporary files of `atomic_open` that nobody writes any more, since their process was killed.

    Args:
        folder: to look into; not below it.
        patterns: of the names of the files that were to be written, as "model_*.pth".
        older_than: seconds since the last change; fresh ones of others, who may not have locked them yet, stay.

    Returns:
        Names of what was removed.
    """
    removed = []
    for file in sorted(folder.glob(".*.tmp")):
        name = file.name[1:].removesuffix(".tmp").rpartition(".")[0]
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            with contextlib.suppress(OSError), file.open("rb") as opened:
                is_old = older_than <= 0.0 or time.time() - os.fstat(opened.fileno()).st_mtime > older_than
                if is_old and lock(opened):
                    file.unlink()
                    removed.append(file.name)
    return removed


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. NaN is not JSON and raises ValueError."""
    with atomic_open(path) as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")


_KINDS = {dict: "an object ({…})", list: "a list ([…])", str: "a text", bool: "true or false", type(None): "null"}


def sha256(path: str | os.PathLike, advance: Callable[[int], object] = int) -> str:
    """Hash of a file's bytes, as hexadecimal digits.

    Args:
        advance: is told the size of each block that was read (bytes).
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def read_json(path: str | os.PathLike, kind: type = dict, *, advice: str = "") -> Any:
    """The content of a JSON file.

    Args:
        path: of a file in UTF-8, UTF-16 or UTF-32.
        kind: dict or list, which the content must be.
        advice: what to do where the file is not as expected; ends the message.

    Raises:
        MissingFileError: there is no such file.
        FileError: it cannot be read, is empty or cut short, no JSON, or JSON of another kind.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(_sentence(f"{path}: there is no such file.", advice)) from error
    except OSError as error:
        raise FileError(_sentence(f"{path} cannot be read: {error.strerror or error}.", advice)) from error
    return parse_json(content, str(path), kind, advice=advice)


def parse_json(content: str | bytes, source: str, kind: type = dict, *, advice: str = "") -> Any:
    """The same of content that is read already.

    Args:
        content: the text.
        source: begins the message: the file, and what part of it.
        kind: dict or list.
        advice: ends the message.

    Raises:
        FileError: as `read_json`.
    """
    if not content.strip():
        raise FileError(_sentence(f"{source} is empty; expected JSON.", advice))
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
        problem = "is cut short: its JSON ends too early" if at_end else f"is no JSON: {error.msg}"
        raise FileError(
            _sentence(f"{source} {problem} (line {error.lineno}, column {error.colno}).", advice)
        ) from error
    except (ValueError, RecursionError) as error:  # bytes of no encoding, endless numbers or brackets
        raise FileError(_sentence(f"{source} is no JSON: {error}.", advice)) from error
    if not isinstance(value, kind):
        found = _KINDS.get(type(value), "a number")
        raise FileError(_sentence(f"{source} holds {found}; expected {_KINDS[kind]}.", advice))
    return value


def _sentence(problem: str, advice: str) -> str:
    return f"{problem} {advice}".rstrip()
