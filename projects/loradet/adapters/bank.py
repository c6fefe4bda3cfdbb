"""Several adapters on one model, switched by name."""

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from loradet.adapters.files.adapter_file import (
    AdapterError,
    frozen_fingerprints,
    pixel_statistics,
    read_adapter,
    trained_tensors,
)
from loradet.adapters.files.comparison import differences
from loradet.adapters.layer import AdapterLayer, adapter_layers, join, unwrap
from loradet.adapters.lora_layer import check_hyperparameters
from loradet.adapters.recipe import adapter_state, lora_sizes, lora_variants, recipes
from loradet.errors import UserError
from loradet.remote import local_path
from loradet.tensors import check_tensors

_SETTINGS = ("rank", "alpha", "dropout", "freeze_base")


class AdapterBank:
    """Adapter files that share a base, held in memory, one of them active; the model is never rebuilt.

    For inference: `activate` copies an adapter into the model, and what training changes there afterwards is lost at
    the next switch. A merged model stays merged, with the delta of the adapter that is active.

    Adapters may differ in LoRA rank, alpha and dropout, in the weights of what else trained, and in the names of the
    classes. Base weights, wrapped layers, what is unfrozen, the number of classes and pixel statistics must be the
    model's.

    Args:
        model: holds the base weights and went through `freeze` or `lora`; its LoRA is untrained. As it is now, it is
            what `activate(None)` brings back, bit for bit.

    Raises:
        ValueError: the model went through neither, or its LoRA is trained already.
    """

    def __init__(self, model: nn.Module):
        self._model = unwrap(model)
        if not list(recipes(self._model)):
            raise UserError(
                f"AdapterBank: {type(self._model).__name__} went through neither freeze nor lora; "
                "build it by the config that the adapters were trained with."
            )
        trained = [path for path, layer in adapter_layers(self._model) if not layer.is_base]
        if trained:
            raise UserError(
                f"AdapterBank: the LoRA of this model is trained already ({trained[0]}), so it is not the base. Make "
                "the bank before loading any adapter, and add this one to it as a file."
            )
        # Fixed now: what trains can no longer be told once a user has switched all gradients off.
        self._names = list(trained_tensors(self._model))
        base = {name: tensor.clone() for name, tensor in self._own_tensors().items()}
        self._base = _Adapter(None, {"recipes": adapter_state(self._model)}, base)
        self._adapters: dict[str, _Adapter] = {}
        self._active: str | None = None

    @property
    def names(self) -> list[str]:
        """Names of the adapters, in the order in which they were added."""
        return list(self._adapters)

    @property
    def active(self) -> str | None:
        """Name of the adapter that the model has now; None for the base."""
        return self._active

    def info(self, name: str) -> dict[str, Any]:
        """What an adapter's file says besides its tensors: "classes", "class_ids", "recipes", "metadata" …

        Raises:
            ValueError: no adapter has this name.
        """
        return copy.deepcopy(self._adapter(name).info)

    def add(self, name: str, path: str | os.PathLike) -> dict[str, Any]:
        """Read an adapter file and check that it fits; the model stays as it is.

        Returns:
            What the file says besides its tensors, as `info`.

        Raises:
            FileNotFoundError: there is no such file.
            AdapterError: the file is broken or does not fit; names all that differs.
            ValueError: the name is empty or taken.
        """
        if not isinstance(name, str) or not name:
            raise UserError(f"AdapterBank: {name!r} is no name for {path}; None is the base.")
        if name in self._adapters:
            raise UserError(
                f"AdapterBank: {name!r} is {self._adapters[name].path} already; choose another name for {path}."
            )
        info, tensors = read_adapter(path)
        _check_settings(path, info)
        check_tensors(tensors, path, self._own_tensors(), error=AdapterError)
        found = self._misfits(info, tensors)
        if found:
            held = "".join(f", which has {other!r} of {a.path}" for other, a in list(self._adapters.items())[:1])
            lines = "".join(f"\n  - {line}" for line in found)
            raise AdapterError(f"{path} does not fit this model{held}; it was not added:{lines}")
        own = self._own_tensors()
        held_tensors = {key: value.to(own[key].device) for key, value in tensors.items()}
        self._adapters[name] = _Adapter(local_path(path), info, held_tensors)
        return self.info(name)

    def activate(self, name: str | None) -> None:
        """Give the model the adapter of this name; None brings the base back, with the neck and head that it had.

        Raises:
            ValueError: no adapter has this name.
        """
        self._put(self._base if name is None else self._adapter(name))
        self._active = name

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """`activate` for the length of a `with` block; then what was active before is again, whatever happened."""
        before = self._active
        self.activate(name)
        try:
            yield
        finally:
            self.activate(before)

    def _adapter(self, name: str) -> "_Adapter":
        if name not in self._adapters:
            known = ", ".join(self._adapters) or "none"
            raise UserError(f"AdapterBank: no adapter is called {name!r}; there is: {known}.")
        return self._adapters[name]

    def _own_tensors(self) -> dict[str, Tensor]:
        """The model's tensors that adapters replace; they share memory with it."""
        state = self._model.state_dict()
        return {name: state[name] for name in self._names}

    def _layer(self, path: str) -> AdapterLayer:
        return cast(AdapterLayer, self._model.get_submodule(path))

    def _misfits(self, info: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[str]:
        """What keeps a file from this model. Rank and alpha do not: the model is compared as if it had the file's."""
        own_recipes, own = copy.deepcopy(self._base.info["recipes"]), self._own_tensors()
        for path, recipe in own_recipes.items():
            theirs = info["recipes"].get(path)
            # Of another variant the layers are other ones, and what differs is told as it is.
            if theirs is None or lora_variants(theirs) != lora_variants(recipe):
                continue
            recipe["lora"] = theirs["lora"]
            for layer, (rank, _) in lora_sizes(theirs).items():
                layer_path = join(path, layer)
                shapes = self._layer(layer_path).adapter_shapes(rank)
                own.update({join(layer_path, n): torch.empty(shape, device="meta") for n, shape in shapes.items()})
        own_info = {"recipes": own_recipes, **pixel_statistics(self._model)}
        return differences(info, tensors, own_info, own, frozen_fingerprints(self._model, tensors))

    def _put(self, adapter: "_Adapter") -> None:
        merged = [layer for _, layer in adapter_layers(self._model) if layer.merged]
        for layer in merged:
            layer.unmerge()
        for path, settings in _layer_settings(adapter.info).items():
            layer = self._layer(path)
            layer.replace_adapter({n: adapter.tensors[join(path, n)] for n in layer.adapter_tensors()}, **settings)
        with torch.no_grad():
            for name, tensor in self._own_tensors().items():
                tensor.copy_(adapter.tensors[name])
        # What is saved from the model now must say what it holds.
        for path, _, recipe in recipes(self._model):
            recipe["lora"] = copy.deepcopy(adapter.info["recipes"][path]["lora"])
        for layer in merged:
            layer.merge()


@dataclass(frozen=True)
class _Adapter:
    path: Path | None  # None: the base
    info: dict[str, Any]
    tensors: dict[str, Tensor]


def _layer_settings(info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Full path of each wrapped layer → rank, alpha, dropout, freeze_base."""
    return {
        join(path, layer): {key: entry[key] for key in _SETTINGS}
        for path, recipe in info["recipes"].items()
        for entry in recipe["lora"]
        for layer in entry["matched"]
    }


def _check_settings(path: str | os.PathLike, info: Mapping[str, Any]) -> None:
    """Raise AdapterError for settings that `lora` would not take, so that `activate` never stops halfway."""
    for layer, settings in _layer_settings(info).items():
        try:
            check_hyperparameters(settings["rank"], settings["alpha"], settings["dropout"])
        except ValueError as error:
            raise AdapterError(f"{path}: {layer}: {error}") from error
