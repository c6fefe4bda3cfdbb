"""Where a tensor comes from, so that who needs it in backward can keep its source and make it again."""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from loradet.adapters.autocast import autocast_state

# Not attributes of the tensors: whoever saves one would save module and input with it.
_SOURCES = WeakTensorKeyDictionary()


@dataclass(frozen=True)
class Maker:
    """How to make a tensor again.

    Attributes:
        module: deterministic, with one input, which it keeps for its own backward pass anyway.
        autocast: type of device, whether autocast was on there, and its dtype; None where there is no autocast.
    """

    module: nn.Module
    autocast: tuple[str, bool, torch.dtype] | None

    def make(self, x: Tensor) -> Tensor:
        """The module's output for x, bit for bit, without history and without hooks."""
        with torch.no_grad(), self._as_it_was():
            return type(self.module).forward(self.module, x)

    def _as_it_was(self) -> contextlib.AbstractContextManager:
        if self.autocast is None:
            return contextlib.nullcontext()
        device, enabled, dtype = self.autocast
        # No cache: a cast that is cached without history would be taken where gradients are wanted.
        return torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False)


@dataclass(frozen=True)
class Source:
    """What a tensor was made from.

    Attributes:
        maker: makes it again.
        input: what from, without history.
        version: of the tensor that was made, while nobody has written into it.
    """

    maker: Maker
    input: Tensor
    version: int


def remember_source(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    """Forward hook: note on the output what it was made from, where backward could want it."""
    if len(inputs) != 1 or not isinstance(output, Tensor) or not isinstance(inputs[0], Tensor):
        return
    if output.requires_grad and not is_traced():
        maker = Maker(module, autocast_state(output))
        _SOURCES[output] = Source(maker, inputs[0].detach(), output._version)


def source_of(x: Tensor) -> Source | None:
    """What is known of where a tensor comes from; None where it was written into since."""
    source = _SOURCES.get(x)
    return source if source is not None and source.version == x._version else None


def is_traced() -> bool:
    """Whether torch.compile, torch.export or torch.jit reads the code at present: these decide what to keep."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting()
