"""Weights of Detectron2's model zoo, which are pickles, as files that `train.init_checkpoint` and `weights` take.

Beside the Checkpointer, which refuses such pickles and reads what comes out of here.
"""

import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from detectron2_embedded.array_pickle import ForbiddenPickleError, load_array_pickle
from loradet.errors import MissingFileError, UserError
from loradet.files import atomic_open
from loradet.tensors import check_tensors

SUFFIXES = (".safetensors", ".pth")


@dataclass(frozen=True)
class PickledWeights:
    """What a pickle of weights holds.

    Attributes:
        tensors: by name; Caffe2's names are turned into Detectron2's.
        author: who made the file, as it says.
        backbone_only: the names lack the path inside of a detector (the file's `matching_heuristics`).
        left_out: what else the file holds.
    """

    tensors: dict[str, torch.Tensor]
    author: str
    backbone_only: bool
    left_out: list[str]


def read_pickled_weights(path: str | os.PathLike) -> PickledWeights:
    """Read numpy arrays from a pickle without running anything of it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it asks for more than arrays (the message names what), is damaged, or holds no weights.
    """
    content = _load(Path(path))
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds {type(content).__name__}; expected a dict of arrays by name.")
    key = "model" if "model" in content else "blobs"  # blobs: of Caffe2
    arrays = content.get(key, content)
    left_out = [str(name) for name in content if name != key] if arrays is not content else []
    if not isinstance(arrays, Mapping) or not arrays:
        raise UserError(f"{path} holds no weights; its keys are {', '.join(map(str, content)) or 'none'}.")
    tensors = {str(k): _tensor(k, v, path) for k, v in arrays.items() if not str(k).endswith("_momentum")}
    left_out += [str(name) for name in arrays if str(name) not in tensors]
    left_out = [name for name in left_out if name not in ("__author__", "matching_heuristics")]
    caffe2 = any(_CAFFE2.match(name) for name in tensors)
    if caffe2:
        names = {name: _caffe2_name(name, path) for name in tensors}
        left_out += [name for name, new in names.items() if new is None]
        tensors = _with_statistics({new: tensors[name] for name, new in names.items() if new is not None})
    return PickledWeights(
        tensors=tensors,
        author="Caffe2" if caffe2 else str(content.get("__author__", "")),
        backbone_only=caffe2 or content.get("matching_heuristics") is True,
        left_out=left_out,
    )


def convert_weights(source: str | os.PathLike, output: str | os.PathLike) -> PickledWeights:
    """Write the arrays of a pickle as safetensors or as a pth file, by the suffix of `output`, whole or not at all.

    Returns:
        What was written.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: see `read_pickled_weights`; another suffix; or tensors that are no weights, which are named.
    """
    source, output = Path(source), Path(output)
    if output.suffix not in SUFFIXES:
        raise UserError(f"{output}: expected a file name that ends in {' or '.join(SUFFIXES)}.")
    if not output.parent.is_dir():
        raise MissingFileError(f"{output}: there is no folder {output.parent}.")
    weights = read_pickled_weights(source)
    check_tensors(weights.tensors, source)
    # Detectron2 takes files of Caffe2 for such as still have Caffe2's names.
    author = "" if weights.author == "Caffe2" else weights.author
    with atomic_open(output, "wb") as file:
        if output.suffix == ".pth":
            marks = {"__author__": author, "matching_heuristics": weights.backbone_only}
            torch.save({"model": weights.tensors, **marks}, file)
        else:
            marks = {"format": "pt", "author": author, "matching_heuristics": str(weights.backbone_only)}
            file.write(safetensors.torch.save(weights.tensors, metadata=marks))
    return weights


def _load(path: Path) -> Any:
    try:
        return load_array_pickle(path)
    except ForbiddenPickleError as error:
        raise UserError(f"{path} is refused, and nothing of it was run: {error}") from error
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
        hint = "it is a zip, as torch.save makes them: name it .pth" if zipped else f"cut off or no pickle ({error})"
        raise UserError(f"{path} cannot be read: {hint}.") from error


def _tensor(name: Any, value: Any, path: str | os.PathLike) -> torch.Tensor:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise UserError(f"{path}: {name} is of type {type(value).__name__}; expected a numpy array.")
    array = np.asarray(value)
    try:
        # A copy in the machine's byte order that nothing else refers to.
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C", subok=False))
    except TypeError as error:
        raise UserError(f"{path}: {name} is an array of {array.dtype}, of which torch makes no tensor.") from error


# Names of the ResNets that Detectron (Caffe2) trained, as MSRA's R-50.pkl has them.
_CAFFE2 = re.compile(r"(res\d_\d+_branch|(res_)?conv1_(w|b|bn_))")
_CAFFE2_LAYERS = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
_CAFFE2_TENSORS = {
    "w": "weight",
    "b": "bias",
    "bn_s": "norm.weight",
    "bn_gamma": "norm.weight",
    "bn_b": "norm.bias",
    "bn_beta": "norm.bias",
    "bn_rm": "norm.running_mean",
    "bn_running_mean": "norm.running_mean",
    "bn_riv": "norm.running_var",
    "bn_running_var": "norm.running_var",
}


def _caffe2_name(name: str, path: str | os.PathLike) -> str | None:
    """Detectron2's name; None for what its networks do not have, such as a bias in front of a norm."""
    if re.search(r"fpn|rpn|retnet|bbox_pred|cls_score", name):
        raise UserError(f"{path} has {name!r}: of Caffe2's files only ImageNet ResNets are converted, no detectors.")
    if found := re.fullmatch(r"res(\d)_(\d+)_(branch1|branch2[abc])_(.+)", name):
        stage, block, branch, tensor = found.groups()
        layer = f"res{stage}.{block}.{_CAFFE2_LAYERS[branch]}"
    elif found := re.fullmatch(r"(?:res_)?conv1_(w|bn_.+)", name):
        layer, tensor = "stem.conv1", found[1]
    elif found := re.fullmatch(r"(?:pred|fc1000)_([wb])", name):
        layer, tensor = "linear", found[1]
    else:
        return None
    return f"{layer}.{_CAFFE2_TENSORS[tensor]}" if tensor in _CAFFE2_TENSORS else None


def _with_statistics(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Statistics that are folded into scale and bias are mean 0 and variance 1."""
    filled = dict(tensors)
    for name, scale in tensors.items():
        if name.endswith(".norm.weight"):
            filled.setdefault(name.replace(".weight", ".running_mean"), torch.zeros_like(scale))
            filled.setdefault(name.replace(".weight", ".running_var"), torch.ones_like(scale))
    return filled
