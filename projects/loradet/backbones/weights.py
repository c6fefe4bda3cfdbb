"""Backbone weights from a local file."""

import importlib.resources
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_patch_embed
from torch import nn

from loradet.adapters.filled import mark_loaded
from loradet.errors import MissingFileError, UserError
from loradet.files import sha256
from loradet.remote import is_url, local_copy
from loradet.tensors import check_tensors
from loradet.wording import shorten

ASSET = "asset://"


class ForeignWeightsError(UserError):
    """A file of weights is of another network.

    Attributes:
        weights: the file as it was given.
        model_name: of the network that was to take it.
    """

    def __init__(self, message: str, weights: str, model_name: str):
        super().__init__(message)
        self.weights, self.model_name = weights, model_name


def load_weights(
    net: nn.Module, weights: str | os.PathLike, model_name: str, timm_kwargs: dict[str, Any] | None = None
) -> None:
    """Load a file of the same model into a timm feature network, in place and strictly.

    Names may be those of the feature network (`stages_3.…`), those of a `TimmBackbone` (`net.stages_3.…`) or
    those that timm publishes (`stages.3.…`). What belongs to stages that were not built and to timm's
    classifier is passed over. Half precision is converted to the network's own. Where `patch_size` of a ViT is not the
    file's, its patch embedding is resampled, as timm does it with published weights (FlexiViT,
    https://arxiv.org/abs/2212.08013, section 3.4).

    Args:
        net: what `timm.create_model(model_name, features_only=True)` gives.
        weights: path of a safetensors or pth file, or `asset://NAME`.
        model_name, timm_kwargs: what `net` was built from.

    Raises:
        FileNotFoundError: no such file.
        ForeignWeightsError: its tensors are not those of the network.
        ValueError: the file is damaged, or its tensors are not finite numbers.
    """
    path = resolve(weights)
    state = read_state_dict(path)
    own = net.state_dict()
    renamed, foreign = {}, []
    for name, tensor in state.items():
        target = next((candidate for candidate in _spellings(name) if candidate in own), None)
        if target is None:
            foreign.append(name)
        else:
            renamed[target] = tensor
    if "patch_size" in (timm_kwargs or {}):
        renamed |= _resampled_patches(renamed, own)
    if foreign:
        known = _names_of_whole_model(model_name, timm_kwargs or {})
        foreign = [name for name in foreign if known.isdisjoint(_spellings(name))]
    problems = [] if renamed else ["none of its tensors has a name of that network"]
    if renamed and (missing := [name for name in own if name not in renamed]):
        problems.append(f"missing: {shorten(missing)}")
    if foreign and renamed:
        problems.append(f"unexpected: {shorten(foreign)}")
    if shapes := [
        f"{name} {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
        for name, tensor in renamed.items()
        if tensor.shape != own[name].shape
    ]:
        problems.append(f"other shape: {shorten(shapes)}")
    if problems:
        message = f"{path} does not hold the weights of {model_name!r}; {'; '.join(problems)}."
        raise ForeignWeightsError(message, os.fspath(weights), model_name)
    check_tensors(renamed, path, own)
    net.load_state_dict(renamed)
    mark_loaded(net)


def resolve(weights: str | os.PathLike) -> Path:
    """Path of a weights file; of `asset://NAME`, which loradet ships, checked against `NAME.sha256`; of a URL's copy.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file's sha256 is not the recorded one.
    """
    text = os.fspath(weights)
    if is_url(text):
        return local_copy(text)
    if not text.startswith(ASSET):
        path = Path(text).expanduser()
        if not path.is_file():
            raise MissingFileError(f"weights={text!r}: no such file.")
        return path
    folder = Path(str(importlib.resources.files("loradet"))) / "assets"
    path = folder / text.removeprefix(ASSET)
    checksum = path.with_name(path.name + ".sha256")
    if not path.is_file() or not checksum.is_file():
        shipped = sorted(file.name.removesuffix(".sha256") for file in folder.glob("*.sha256"))
        raise MissingFileError(f"weights={text!r}: loradet ships {', '.join(shipped) or 'no weights'}.")
    expected = checksum.read_text(encoding="utf-8").split()[0]
    found = sha256(path)
    if found != expected:
        raise UserError(f"{path} is damaged: its sha256 is {found}, {checksum.name} says {expected}.")
    return path


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a safetensors file, or from a pth file (bare, or under `model` or `state_dict`).

    Raises:
        ValueError: the file is damaged or holds something else.
    """
    check_not_pickle(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(f"{path} {why_unreadable(error)}") from error
    return state_dict_in(content, path)


def state_dict_in(content: Any, path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The tensors by name in what a file of weights holds: bare, or under `model` or `state_dict`.

    Raises:
        UserError: it holds something else; names `path`.
    """
    if isinstance(content, dict):
        content = next((content[key] for key in ("model", "state_dict") if key in content), content)
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict (tensors by name, bare or under 'model' or 'state_dict').")
    return content


# What files that are no weights make torch and safetensors raise.
UNREADABLE = (
    *(SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError),
    *(RuntimeError, LookupError, ValueError, TypeError, AttributeError),
)


def why_unreadable(error: BaseException) -> str:
    """Why a file of weights cannot be read, as the rest of a sentence that begins with its path."""
    while error.__cause__ is not None:
        error = error.__cause__  # torch's, whoever called it
    # torch's own words advise to load the file all the same.
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return (
            f"holds a {found[1]} besides tensors. It is not read, since that could run code; if you trust it, save its "
            "state dict anew."
        )
    if "TorchScript" in str(error):
        return "is a program of TorchScript, not weights: load it by torch.jit.load and save its state_dict()."
    reason = (str(error) or type(error).__name__).splitlines()[0]
    more = "" if "weights_only" in reason or "Weights only" in reason else f" ({reason})"
    return f"is no file of weights: it is cut off, damaged, or something else (a web page, a pointer of git-lfs){more}."


def check_not_pickle(path: str | os.PathLike) -> None:
    """Raise ValueError for a `.pkl`: what is read by unpickling can run code. The message has the safe way."""
    path = Path(path)
    if path.suffix == ".pkl":
        raise UserError(
            f"{path} is a pickle, and to unpickle a file is to run whatever it says: it is not read. Its arrays alone "
            f"are taken out by: loradet weights convert {path} {path.stem}.safetensors"
        )


def _resampled_patches(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The patch embedding of a file for patches of the network's size; {} where there is nothing to do."""
    name = "patch_embed.proj.weight"
    there, here = state.get(name), own.get(name)
    if there is None or here is None or there.dim() != 4 or there.shape[:2] != here.shape[:2]:
        return {}
    if there.shape[2:] == here.shape[2:]:
        return {}
    return {name: resample_patch_embed(there.float(), list(here.shape[2:]))}


def _spellings(name: str) -> Iterable[str]:
    """The names that a tensor may have in a feature network."""
    name = name.removeprefix("net.")
    yield name
    yield name.replace(".", "_", 1)  # timm joins the names of two levels: stages.3 becomes stages_3
    yield f"model.{name}"
    yield f"body.{name}"


def _names_of_whole_model(model_name: str, kwargs: dict[str, Any]) -> set[str]:
    with torch.device("meta"):
        features = timm.create_model(model_name, features_only=True, **kwargs)
        whole = timm.create_model(model_name, **kwargs)
    return set(features.state_dict()) | set(whole.state_dict())
