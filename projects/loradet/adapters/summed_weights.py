"""Weights that read as base plus delta, for modules whose weights are read by other code than their own."""

from typing import Any

import torch
from torch import Tensor, nn


class SummedWeights(nn.Module):
    """Some weights of this module, read as attributes, include a delta; its parameters and state dict hold the base.

    Torch's fused code takes `attention.in_proj_weight` and `attention.out_proj.weight` and never calls the module that
    has the delta. A subclass declares such names as `summed_weight(name)` and tells their deltas.
    """

    def _delta(self, name: str) -> Tensor:
        """The delta of a weight, in its shape, with gradient."""
        raise NotImplementedError

    def _begin_sums(self, names: list[str]) -> None:
        for name in names:
            # The exact weight while merged; a buffer, so that it follows .to(), but in no state dict.
            self.register_buffer(f"_base_{name}", None, persistent=False)

    def _summed_names(self) -> list[str]:
        return [name for name in self._parameters if f"_base_{name}" in self._buffers]

    def _read(self, name: str) -> Tensor | None:
        if name not in self._parameters:
            raise AttributeError(name)
        weight = self._parameters[name]
        if f"_base_{name}" not in self._buffers or self._buffers[f"_base_{name}"] is not None:
            return weight
        return (weight + self._delta(name)).to(weight.dtype)

    @property
    def merged(self) -> bool:
        """Whether the deltas are part of the weights at present."""
        return any(self._buffers[f"_base_{name}"] is not None for name in self._summed_names())

    def merged_state(self) -> dict[str, Tensor]:
        """The weights with their deltas."""
        return self._sums()

    def _sums(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: self._read(name).detach() for name in self._summed_names()}

    def merge(self) -> None:
        """Add the deltas to the weights; nothing happens where they are merged."""
        if not self.merged:
            for name, merged in self._sums().items():
                weight = self._parameters[name]
                self._buffers[f"_base_{name}"] = weight.data
                weight.data = merged

    def unmerge(self) -> None:
        """Restore the weights bit for bit; nothing happens where they are not merged."""
        if self.merged:
            for name in self._summed_names():
                self._parameters[name].data = self._buffers[f"_base_{name}"]
                self._buffers[f"_base_{name}"] = None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.merged:
            # What is saved does not depend on merging, so loading it can never add the delta twice.
            for name in self._summed_names():
                destination[prefix + name] = self._buffers[f"_base_{name}"]

    def _load_from_state_dict(self, *args: Any) -> None:
        was_merged = self.merged
        self.unmerge()
        super()._load_from_state_dict(*args)
        if was_merged:
            self.merge()


def summed_weight(name: str) -> property:
    """The attribute for one of the weights of a `SummedWeights`."""
    return property(lambda self: self._read(name), doc=f"`{name}` and its delta.")
