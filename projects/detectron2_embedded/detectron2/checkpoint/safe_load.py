"""Reads checkpoint files without running any code that they may hold."""

import collections
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

# Where numpy's pickles of arrays and scalars find their constructors, under both layouts of the library.
_NUMPY_CONSTRUCTORS = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {("numpy._core.numeric", "_frombuffer"), ("numpy.core.numeric", "_frombuffer")}
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
    with Path(path).open("rb") as file:
        try:
            # latin1: pickles of Python 2, as the Caffe2 models are.
            return _ArrayUnpickler(file, encoding="latin1").load()
        except _RefusedError as error:
            raise pickle.UnpicklingError(f"{path}: {error}") from error
        except (
            pickle.UnpicklingError,
            EOFError,
            ValueError,
            IndexError,
            KeyError,
            AttributeError,
            UnicodeDecodeError,
        ) as error:
            raise pickle.UnpicklingError(f"{_corrupt(path)} ({_first_line(error)})") from error


class _RefusedError(pickle.UnpicklingError):
    pass


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], encoding: str):
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NUMPY_CONSTRUCTORS or (module == "numpy" and name in ("ndarray", "dtype")):
            return super().find_class(module, name)
        if module == "numpy.dtypes" and name.endswith("DType"):
            return super().find_class(module, name)
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        raise _RefusedError(
            f"the pickle names {module}.{name}, and loading it could run code; only numpy arrays, numbers, "
            "strings and containers are read. If you trust it, save its weights anew as a .pth state dict."
        )


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """How pickle's protocol 2 writes bytes; no other codec is needed for that."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"unexpected codec {encoding!r}")
    return text.encode("latin1")


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
