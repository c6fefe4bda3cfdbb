"""A run's log file that cannot be written any more."""

import logging
import os
import sys
from pathlib import Path


def tell_once_if_unwritable(names: tuple[str, ...], folder: Path) -> None:
    """Let handlers of a log file in a folder say by one line that it cannot be written, not by a traceback a message.

    Args:
        names: of loggers.
        folder: of the run.
    """
    told: list[str] = []
    for name in names:
        for handler in logging.getLogger(name).handlers:
            file = getattr(getattr(handler, "stream", None), "name", None)
            if isinstance(file, str | os.PathLike) and Path(file).parent == folder:
                handler.handleError = _Told(handler, str(file), told)  # type: ignore[method-assign]


class _Told:
    """Called where a handler has failed."""

    def __init__(self, handler: logging.Handler, file: str, told: list[str]):
        self._file = file
        self._told = told
        self._others = handler.handleError

    def __call__(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self._others(record)
        elif self._file not in self._told:
            self._told.append(self._file)
            print(f"warning: {self._file} lacks what is logged now: {error.strerror or error}.", file=sys.stderr)
