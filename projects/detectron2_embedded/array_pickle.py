"""Reads pickles of numpy arrays without handing them anything that could run code.

To allow numpy's own constructors is not enough: a crafted dtype makes them take raw bytes for pointers. So the names in
a file get stand-ins of this module, which check shapes and types and then make the arrays themselves.
"""

import io
import math
import pickle
import pickletools
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

__all__ = ["TORCH_GLOBALS", "ForbiddenPickleError", "load_array_pickle"]


class ForbiddenPickleError(pickle.UnpicklingError):
    """The pickle asks for more than arrays; the message names what."""


def load_array_pickle(path: str | Path) -> Any:
    """Unpickle numpy arrays and scalars, numbers, strings and plain containers, and nothing else.

    Pickles of Python 2 are read too. An `OrderedDict` comes back as a dict. Memory is bounded by a few times the size
    of the file.

    Raises:
        ForbiddenPickleError: the file names anything else; nothing of it was run.
        pickle.UnpicklingError: the file is cut off or no pickle.
        OSError: the file cannot be read.
    """
    data = Path(path).read_bytes()
    try:
        _check_opcodes(data)
        # latin1: how Python 2's strings of raw bytes come through unharmed.
        return _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except pickle.UnpicklingError:
        raise
    except (
        *(ValueError, TypeError, LookupError, AttributeError, EOFError, struct.error),
        *(OverflowError, MemoryError, RecursionError),
    ) as error:
        raise pickle.UnpicklingError(str(error) or type(error).__name__) from error


def _check_opcodes(data: bytes) -> None:
    """Walk over the whole pickle before anything is built.

    Lengths must lie within the file. Positions in the memo beyond the number of steps would reserve memory for all in
    between. Extension codes may name anything without asking `find_class`.
    """
    for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name in ("EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER"):
            raise ForbiddenPickleError(_refusal(f"an object from outside of the file ({opcode.name})"))
        if "PUT" in opcode.name and int(argument) > step:
            raise pickle.UnpicklingError(f"step {step} is stored at position {argument}")


def _refusal(what: str) -> str:
    return (
        f"the pickle names {what}, and loading it could run code; only numpy arrays, numbers, strings and containers "
        "are read. If you trust it, save its weights anew as a .pth state dict."
    )


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (stand_in := _STAND_INS.get((module, name))) is None:
            raise ForbiddenPickleError(_refusal(f"{module}.{name}"))
        return stand_in


class _Name:
    """What a name in a pickle becomes: it can be called, and nothing else can be done to it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable):
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ForbiddenPickleError(_refusal("a function and changes it"))


class _DType:
    """A dtype of plain numbers or strings (or of objects), by its code and byte order."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: str, align: Any = False, copy: Any = False):  # noqa: ARG002  (as pickles call it)
        if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?(O8?|b1|[iufc]\d{1,2}|[SU]\d{1,9})", code):
            raise ForbiddenPickleError(_refusal(f"an array of type {code!r}"))
        self._code, self._order = code, "="

    def __setstate__(self, state: tuple) -> None:
        _, order, subarray, names, fields, *_ = state
        if not (subarray is None and names is None and fields is None):
            raise ForbiddenPickleError(_refusal("a structured array"))
        self._order = order

    def build(self) -> np.dtype:
        plain = np.dtype(self._code)
        return plain.newbyteorder(self._order) if self._order in ("<", ">") else plain


class _Array(np.ndarray):
    """An array whose pickled state is checked before numpy sees it; pickled anew, it is a plain one."""

    def __new__(cls, *_: Any) -> NoReturn:
        raise ForbiddenPickleError(_refusal("numpy.ndarray and calls it"))

    def __setstate__(self, state: tuple) -> None:
        if self.size:
            # A tensor may lie on the memory that would be freed.
            raise ForbiddenPickleError(_refusal("an array and changes it"))
        _, shape, dtype, is_fortran, raw = state
        dtype = dtype.build()
        _check_size(shape, dtype, raw)
        super().__setstate__((1, shape, dtype, bool(is_fortran), _as_bytes(raw)))

    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _check_size(shape: tuple[int, ...], dtype: np.dtype, raw: bytes | str | list) -> None:
    if isinstance(raw, list) != dtype.hasobject or not isinstance(raw, (bytes, bytearray, str, list)):
        raise pickle.UnpicklingError(f"an array of {dtype} holds {type(raw).__name__}")
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(side) is int and side >= 0 for side in shape):
        raise pickle.UnpicklingError("an array has a shape that is none")
    if len(raw) != math.prod(shape) * (1 if dtype.hasobject else dtype.itemsize):
        raise pickle.UnpicklingError(f"an array of shape {shape} and type {dtype} has {len(raw)} bytes")


def _as_bytes(raw: bytes | str | list) -> bytes | list:
    return raw.encode("latin1") if isinstance(raw, str) else raw


def _reconstruct(subtype: Any, shape: Any, code: Any) -> _Array:  # noqa: ARG001  (the state that follows tells all)
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _from_buffer(buffer: bytes | bytearray, dtype: _DType, shape: tuple[int, ...], order: str) -> np.ndarray:
    built = dtype.build()
    _check_size(shape, built, buffer)
    return np.frombuffer(bytearray(buffer), built).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: _DType, raw: bytes | str) -> Any:
    built = dtype.build()
    _check_size((), built, raw)
    return np.frombuffer(_as_bytes(raw), built)[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How pickle's protocol 2 writes bytes; no other codec is needed for that."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"unexpected codec {encoding!r}")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Name(_Array),
    ("numpy", "dtype"): _Name(_DType),
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _Name(_encode),
    **{(module, "bytes"): _Name(_empty_bytes) for module in ("builtins", "__builtin__")},
    **{(module, "set"): _Name(set) for module in ("builtins", "__builtin__")},
    # Under numpy 1's and numpy 2's names.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Name(_reconstruct) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Name(_scalar) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Name(_from_buffer) for core in ("core", "_core")},
}

# The same for torch's reader, which sets states only on instances of classes that are themselves allowed.
TORCH_GLOBALS: list[tuple[Any, str]] = [
    (_Array, "numpy.ndarray"),
    (_DType, "numpy.dtype"),
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
