"""The adapter layer protocol: between wrapped modules and everything that handles adapters."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


class AdapterLayer(nn.Module):
    """A module that kept its own parameters, under their own names, and has a trainable delta besides.

    Subclasses come before the wrapped class in the bases: `class LoRALinear(AdapterLayer, nn.Linear)`.
    """

    rank: int
    alpha: float
    dropout: float
    freeze_base: bool
    # Name of an adapter that the weights of the wrapped module cannot hold; None of one that can be merged.
    unmergeable: ClassVar[str | None] = None

    @classmethod
    def unsupported_reason(cls, module: nn.Module) -> str | None:
        """Why a module of the wrapped class cannot become such a layer, or None."""
        raise NotImplementedError

    @classmethod
    def from_base(
        cls, module: nn.Module, *, rank: int, alpha: float, dropout: float, freeze_base: bool, **options: Any
    ) -> "AdapterLayer":
        """Turn `module` itself into this layer, so that whoever holds a reference to it sees the delta."""
        raise NotImplementedError

    def adapter_tensors(self) -> dict[str, torch.Tensor]:
        """The delta's own parameters, and buffers that it needs, by their names in this layer."""
        raise NotImplementedError

    def adapter_shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        """Shapes that `adapter_tensors` would have at another rank."""
        raise NotImplementedError

    def replace_adapter(
        self, tensors: Mapping[str, torch.Tensor], *, rank: int, alpha: float, dropout: float, freeze_base: bool
    ) -> None:
        """Copy another delta, of any rank, over the present one; for a layer that is not merged."""
        raise NotImplementedError

    @property
    def is_base(self) -> bool:
        """Whether the delta is zero, so that outputs are those of the wrapped module."""
        raise NotImplementedError

    def geometry(self) -> dict[str, Any]:
        """What shapes of tensors do not tell of how the delta is applied, as JSON-able values; empty where usual."""
        return {}

    def train_adapter(self) -> None:
        """Set train mode for the delta alone, as in a part that `freeze` keeps in eval mode."""
        self.training = True

    @property
    def merged(self) -> bool:
        """Whether the delta is part of the weights at present."""
        raise NotImplementedError

    def merge(self) -> None:
        """Add the delta to the weights; nothing happens where it is merged."""
        raise NotImplementedError

    def unmerge(self) -> None:
        """Restore the weights bit for bit; nothing happens where it is not merged."""
        raise NotImplementedError

    def merged_state(self) -> dict[str, torch.Tensor]:
        """Those of the wrapped module's tensors that merging changes, as they are when merged."""
        raise NotImplementedError


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model


def adapter_layers(model: nn.Module) -> Iterator[tuple[str, AdapterLayer]]:
    """Dotted path and layer, under every path that a layer is registered at."""
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, AdapterLayer):
            yield path, module


def adapter_tensor_names(model: nn.Module) -> set[str]:
    """State-dict keys of all deltas in a model."""
    return {join(path, name) for path, layer in adapter_layers(model) for name in layer.adapter_tensors()}


def join(path: str, name: str) -> str:
    """Dotted path of `name` below `path`; the root's path is empty."""
    return f"{path}.{name}" if path and name else path or name


def is_under(name: str, path: str) -> bool:
    """Whether a dotted name is `path` itself or lies below it; everything lies below the root."""
    return not path or name == path or name.startswith(f"{path}.")
