"""Reads checkpoint files without running any code that they may hold."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detectron2_embedded.array_pickle import ForbiddenPickleError, load_array_pickle

_NUMPY_DTYPES = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdFDSU"]


def load_torch_file(path: str) -> Any:
    """`torch.load` of tensors, plain containers and numpy values, onto the CPU.

    Raises:
        pickle.UnpicklingError: the file holds something else.
        RuntimeError: the file is cut off or no checkpoint at all.
    """
    multiarray = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray
    allowed = [
        *_NUMPY_DTYPES,
        np.ndarray,
        np.dtype,
        multiarray._reconstruct,
        multiarray.scalar,
        # Files from numpy 1 name the same functions by their old module.
        (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
        (multiarray.scalar, "numpy.core.multiarray.scalar"),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _looks_cut(path):
            raise RuntimeError(_corrupt(path)) from error
        raise pickle.UnpicklingError(
            f"{path} holds more than weights; loading it could run code ({_first_line(error)}). If you trust "
            "it, save its state dict anew with torch.save(...) or safetensors."
        ) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            # The file cannot be opened at all; without a name it is a seek beyond the end of a cut file.
            raise
        raise RuntimeError(f"{_corrupt(path)} ({_first_line(error)})") from error


def load_pickle_file(path: str) -> Any:
    """Unpickle containers, numbers, strings and numpy arrays, and nothing else.

    Raises:
        pickle.UnpicklingError: the file holds something else, or is no pickle.
    """
    try:
        return load_array_pickle(path)
    except ForbiddenPickleError as error:
        raise pickle.UnpicklingError(f"{path}: {error}") from error
    except pickle.UnpicklingError as error:
        raise pickle.UnpicklingError(f"{_corrupt(path)} ({_first_line(error)})") from error


def _looks_cut(path: str) -> bool:
    """Whether this is the beginning of a zip file, torch's format, without its end."""
    with Path(path).open("rb") as file:
        head = file.read(4)
    return head[:2] in (b"PK", b"") and not zipfile.is_zipfile(path)


def _corrupt(path: str) -> str:
    return (
        f"{path} is not a whole checkpoint: it is cut off, or another kind of file. Fetch it anew, or "
        "resume from an earlier model_*.pth by writing its name into last_checkpoint."
    )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
