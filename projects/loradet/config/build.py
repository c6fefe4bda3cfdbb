"""Builds what a part of a config describes; what goes wrong there is said in one line that names the part."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from detectron2.config import instantiate
from omegaconf.errors import OmegaConfBaseException

from loradet.errors import UserError, one_line


def build(node: Any, what: str) -> Any:
    """`instantiate(node)`, whose failures are errors for users.

    Args:
        node: a part of a config.
        what: begins the message, as "The model" or "dataloader.val".

    Raises:
        UserError: an argument that the called class or function does not take, or a value that it cannot use.
        OSError, ImportError, OmegaConfBaseException: a file, a package or a value of the config is missing.
    """
    try:
        with _silent("detectron2.config.instantiate"):  # it logs what the error says
            return instantiate(node)
    except (UserError, OSError, ImportError, OmegaConfBaseException):
        raise
    except ValueError as error:
        if _is_ours(error.__traceback__):
            raise
        raise UserError(f"{what} cannot be built: {one_line(error)}") from error
    except Exception as error:
        raise UserError(f"{what} cannot be built: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, TypeError) or (isinstance(error, AssertionError) and str(error)):
        return one_line(error)  # Detectron2's modules check their arguments by assertions
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}, line {where.lineno}; LORADET_TRACEBACK=1 shows the way there"
    if isinstance(error, AssertionError):
        return f"{where.line} does not hold ({place})."
    return f"{type(error).__name__}: {one_line(error)} ({place})."


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether loradet itself raised an error, whose message is for users then."""
    module = ""
    while trace is not None:
        module, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return module.startswith("loradet.")


@contextmanager
def _silent(name: str) -> Iterator[None]:
    log = logging.getLogger(name)
    was, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was
