"""Reads checkpoint files without running any code that they may hold."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from detectron2_embedded.array_pickle import TORCH_GLOBALS, ForbiddenPickleError, load_array_pickle


def load_torch_file(path: str) -> Any:
    """`torch.load` of tensors, plain containers and numpy's arrays and scalars, onto the CPU.

    Numpy's own constructors do not see the file; see `detectron2_embedded.array_pickle`.

    Raises:
        pickle.UnpicklingError: the file holds something else.
        RuntimeError: the file is cut off or no checkpoint at all.
    """
    try:
        with torch.serialization.safe_globals(TORCH_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _looks_cut(path):
            raise RuntimeError(_corrupt(path)) from error
        raise pickle.UnpicklingError(
            f"{path} holds more than weights; loading it could run code ({_first_line(error)}). If you trust "
            "it, save its state dict anew with torch.save(...) or safetensors."
        ) from error
    except (
        *(RuntimeError, EOFError, zipfile.BadZipFile, LookupError, ValueError, OSError),
        *(TypeError, AttributeError),
    ) as error:
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
