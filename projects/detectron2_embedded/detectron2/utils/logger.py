"""Logging: one set-up for a run's console and files, and messages that repeat only so often."""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from detectron2.utils.file_io import PathManager
from tabulate import tabulate
from termcolor import colored

__all__ = ["create_small_table", "log_every_n", "log_every_n_seconds", "log_first_n", "setup_logger"]

_DATE_FORMAT = "%m/%d %H:%M:%S"
_LEVEL_STYLES = {
    logging.WARNING: {"color": "yellow"},
    logging.ERROR: {"color": "red"},
    logging.CRITICAL: {"color": "red", "attrs": ["bold"]},
}


class _Formatter(logging.Formatter):
    """Time, short logger name, and level from warning on."""

    def __init__(self, full_name: str, short_name: str, color: bool):
        super().__init__(datefmt=_DATE_FORMAT)
        self._full_name, self._short_name, self._color = full_name, short_name, color

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        name = record.name
        if name == self._full_name or name.startswith(self._full_name + "."):
            name = (self._short_name + name[len(self._full_name) :]).lstrip(".")
        head = f"[{self.formatTime(record, self.datefmt)} {name}]:"
        level = record.levelname if record.levelno >= logging.WARNING else ""
        if self._color:
            head = colored(head, "green")
            level = colored(level, **_LEVEL_STYLES.get(record.levelno, {})) if level else level
        return " ".join(part for part in (head, level, record.message) if part)


class _StdoutHandler(logging.StreamHandler):
    """Writes to what `sys.stdout` is when a message comes, not to what it was at set-up."""

    def __init__(self):
        logging.Handler.__init__(self)

    @property
    def stream(self):
        return sys.stdout


def setup_logger(
    output: str | os.PathLike | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Send a logger and those below it to the console (rank 0 only) and to a file; none is added twice.

    Args:
        output: a file that ends in .txt or .log, or a folder, which gets `log.txt`; other ranks add
            `.rank<n>`.
        distributed_rank: rank of this process.
        color: colour the console's lines.
        name: top logger.
        abbrev_name: short form of it in messages; default `d2` for detectron2; "" leaves it out.
        enable_propagation: hand messages to the parent logger too.
        configure_stdout: write to the console.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name
    on_console = any(isinstance(handler, _StdoutHandler) for handler in logger.handlers)
    if configure_stdout and distributed_rank == 0 and not on_console:
        _attach(logger, _StdoutHandler(), _Formatter(name, abbrev_name, color))
    if output is not None:
        path = _log_file(os.fspath(output), distributed_rank)
        if path not in {getattr(handler, "detectron2_path", None) for handler in logger.handlers}:
            handler = logging.StreamHandler(_open_log(path))
            handler.detectron2_path = path
            _attach(logger, handler, _Formatter(name, abbrev_name, color=False))
    return logger


def _attach(logger: logging.Logger, handler: logging.Handler, formatter: logging.Formatter) -> None:
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(formatter)
    logger.addHandler(handler)


def _log_file(output: str, rank: int) -> str:
    path = output if output.endswith((".txt", ".log")) else str(Path(output, "log.txt"))
    return path if rank == 0 else f"{path}.rank{rank}"


_log_streams: dict = {}


def _open_log(path: str):
    """Loggers that share a file share its stream, so that their lines do not mix."""
    stream = _log_streams.get(path)
    if stream is None or stream.closed or not PathManager.exists(path):
        PathManager.mkdirs(str(Path(path).parent))
        # Line buffered: a line is on disk as soon as it was logged.
        stream = _log_streams[path] = PathManager.open(path, "a", buffering=1)
    return stream


_counts: Counter = Counter()
_last_times: dict = {}


def _caller() -> tuple[str, tuple]:
    """Module name of the code that called a function of this file, and a key of that line."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    module = frame.f_globals.get("__name__", "")
    return ("detectron2" if module == "__main__" else module), (frame.f_code.co_filename, frame.f_lineno)


def log_first_n(
    lvl: int, msg: str, n: int = 1, *, name: str | None = None, key: str | tuple[str, ...] = "caller"
) -> None:
    """Log only the first `n` times.

    Args:
        lvl: logging level.
        msg: message.
        n: how often.
        name: logger; default: the module that calls.
        key: what counts as the same: "caller" (the line of code), "message", or both in a tuple.
    """
    module, line = _caller()
    keys = (key,) if isinstance(key, str) else tuple(key)
    known = {"caller": line, "message": msg}
    if not keys or not set(keys) <= set(known):
        raise ValueError(f'key={key!r}: expected "caller", "message" or a tuple of them.')
    identity = ("first", *(known[k] for k in keys))
    _counts[identity] += 1
    if _counts[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log the first of every `n` calls from the same line of code."""
    module, line = _caller()
    _counts["every", line] += 1
    if n == 1 or _counts["every", line] % n == 1:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log unless the same line of code did so within the last `n` seconds."""
    module, line = _caller()
    now = time.monotonic()
    if line not in _last_times or now - _last_times[line] >= n:
        _last_times[line] = now
        logging.getLogger(name or module).log(lvl, msg)


def create_small_table(small_dict: Mapping[str, float]) -> str:
    """A table with the keys in one row and the values, with three decimals, below."""
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )
