"""Detectron2's writers of a run folder, whose errors name the file."""

import threading
from pathlib import Path
from typing import Any

from detectron2.utils.events import JSONWriter, TensorboardXWriter

from loradet.files import write_errors
from loradet.run_folder import RunFolder


class MetricsFile(JSONWriter):
    """Appends to `metrics.json`.

    Args:
        folder: of the run.

    Raises:
        WriteError: by `write` and `close`.
    """

    def __init__(self, folder: RunFolder):
        self._path = folder.metrics
        with write_errors(self._path):
            super().__init__(str(self._path))

    def write(self) -> None:
        """Write what is new since the last call, and force it to disk."""
        with write_errors(self._path):
            super().write()

    def close(self) -> None:
        """Close the file."""
        with write_errors(self._path):
            super().close()


class EventFile(TensorboardXWriter):
    """Writes events for TensorBoard.

    Args:
        folder: of the run.
        **kwargs: of TensorBoard's writer.

    Raises:
        WriteError: by `write` and `close`.
    """

    def __init__(self, folder: RunFolder, **kwargs: Any):
        self._path: Path = folder.path / RunFolder.EVENTS
        self._others = threading.excepthook
        threading.excepthook = self._hook = self._ended_thread
        super().__init__(str(folder.path), **kwargs)

    def write(self) -> None:
        """Write what is new since the last call."""
        with write_errors(self._path):
            super().write()

    def close(self) -> None:
        """Flush and close the event file, if there is one."""
        try:
            with write_errors(self._path):
                super().close()
        finally:
            if threading.excepthook == self._hook:
                threading.excepthook = self._others

    def _ended_thread(self, args: threading.ExceptHookArgs) -> None:
        # TensorBoard's thread hands its error to the next call here, which tells it: no traceback before.
        if type(args.thread).__name__ != "_AsyncWriterThread" or not issubclass(args.exc_type, OSError):
            self._others(args)
