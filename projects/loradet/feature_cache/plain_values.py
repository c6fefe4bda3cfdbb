"""Descriptions of values in which all that differs is described otherwise."""

import dataclasses
import enum
import hashlib
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor


def describe(value: Any) -> Any:
    """A value as JSON has them; arrays and tensors by type, shape and hash.

    Args:
        value: a number, text, path, type of tensors, enumeration, array, tensor, or dataclass; or a list, tuple, set or
            mapping of such.

    Raises:
        TypeError: it is, or holds, something else; the message is the type's name.
    """
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if isinstance(value, enum.Enum):
        return f"{_name(type(value))}.{value.name}"
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, (bytes, complex, torch.dtype, torch.device, np.dtype)):
        return repr(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return _array(value)
    if isinstance(value, (list, tuple)):
        return [describe(one) for one in value]
    if isinstance(value, (set, frozenset)):
        return sorted((describe(one) for one in value), key=repr)
    if isinstance(value, Mapping):
        return [[describe(key), describe(one)] for key, one in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {_name(type(value)): fields}
    raise TypeError(type(value).__name__)


def _array(value: np.ndarray | np.generic | Tensor) -> list[Any]:
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        kind, content = str(flat.dtype), flat.view(torch.uint8).numpy().tobytes()
    else:
        value = np.asarray(value)
        if value.dtype.hasobject:
            raise TypeError(f"{type(value).__name__} of objects")
        kind, content = str(value.dtype), value.tobytes()
    return [kind, list(value.shape), hashlib.sha256(content).hexdigest()]


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
