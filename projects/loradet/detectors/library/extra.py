"""The library transformers: an extra, imported when a detector of it is built."""

import importlib
import importlib.metadata
import logging
import re
import sys
from types import ModuleType

from loradet.errors import UserError

logger = logging.getLogger(__name__)

TESTED = (5, 24)


def transformers() -> ModuleType:
    """The package `transformers`.

    Raises:
        UserError: it is absent, too old, or cannot be imported; says what to install.
    """
    if sys.version_info < (3, 11):
        raise UserError(
            f"Detectors of transformers need Python 3.11 or later, and this is {sys.version.split()[0]}: make an "
            "environment with a later one, then pip install 'loradet[transformers]'."
        )
    try:
        found = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("Detectors of transformers need that package: pip install 'loradet[transformers]'.") from None
    version = tuple(int(part) for part in re.findall(r"\d+", found)[:2])  # of 5.24rc1 too
    if version < TESTED:
        raise UserError(
            f"transformers {found} is too old for these detectors: pip install 'loradet[transformers]' brings "
            f"{'.'.join(map(str, TESTED))}."
        )
    if version > TESTED:
        logger.warning(
            "transformers %s has not been tried with these detectors (%s has): compare your metrics.",
            found,
            ".".join(map(str, TESTED)),
        )
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(f"transformers {found} cannot be imported: {error}") from error
