"""Checks that tensors from a file can be weights: finite numbers of a floating-point type."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loradet.errors import UserError
from loradet.wording import shorten

# Last parts of names under which nothing but floating-point numbers are expected, whatever the model.
_FLOATING = ("weight", "bias", "running_mean", "running_var", "gamma", "beta", "lora_a", "lora_b")


def check_tensors(
    tensors: Mapping[str, Any],
    path: str | os.PathLike,
    own: Mapping[str, Tensor] | None = None,
    *,
    error: type[UserError] = UserError,
) -> None:
    """Refuse weights that are NaN or infinite, or of a type that weights do not have, before anything is loaded.

    Args:
        tensors: of the file, by the names of `own`; numpy arrays pass too.
        path: of the file; begins the message.
        own: the model's state dict. What it does not have is passed over, since it is not loaded. Without it, names
            that end in `weight`, `bias` and the like are weights, and counters and indices may be whole numbers.
        error: to raise.

    Raises:
        UserError: names the tensors.
    """
    kinds, odd, values = [], [], []
    for name, value in tensors.items():
        mine = None if own is None else own.get(name)
        if own is not None and not isinstance(mine, Tensor):
            continue
        tensor = torch.as_tensor(value) if isinstance(value, np.ndarray) else value
        if not isinstance(tensor, Tensor):
            continue  # whoever loads it says what it is
        if tensor.layout is not torch.strided or tensor.is_quantized or "float8" in str(tensor.dtype):
            odd.append(f"{name} ({_kind(tensor)})")
            continue
        if tensor.is_floating_point():
            if not bool(torch.isfinite(tensor).all()) and (mine is None or bool(torch.isfinite(mine).all())):
                values.append(f"{name} ({_what(tensor)})")
            continue
        floating = name.rpartition(".")[2] in _FLOATING if mine is None else mine.is_floating_point()
        if floating or tensor.is_complex() or (mine is None and tensor.dtype == torch.bool):
            kinds.append(f"{name} ({_kind(tensor)})")
    problems = [f"no floating-point numbers in {shorten(kinds)}"] if kinds else []
    problems += [f"numbers that no model here is made of in {shorten(odd)}"] if odd else []
    problems += [f"numbers that are not finite in {shorten(values)}"] if values else []
    if problems:
        raise error(f"{path} holds {'; and '.join(problems)}. Nothing was loaded; take another file of these weights.")


def _kind(tensor: Tensor) -> str:
    layout = "" if tensor.layout is torch.strided else f", {str(tensor.layout).removeprefix('torch.')}"
    return f"{str(tensor.dtype).removeprefix('torch.')}{layout}"


def _what(tensor: Tensor) -> str:
    nan, count = int(torch.isnan(tensor).sum()), int((~torch.isfinite(tensor)).sum())
    kind = "NaN" if nan == count else "infinite" if not nan else "NaN or infinite"
    return f"{count} of {tensor.numel()} {kind}"
