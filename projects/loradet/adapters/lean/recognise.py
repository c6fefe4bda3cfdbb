"""What of a module keeps less for backward once it has LoRA."""

import sys
from collections.abc import Collection

from torch import nn

from loradet.adapters.lean.chain import MEMORY
from loradet.adapters.lean.frozen_conv import LeanConv2d
from loradet.adapters.lean.pointwise import keeps_its_input
from loradet.adapters.lean.source import remember_source
from loradet.adapters.lora_layers import OneWeightLoRA
from loradet.errors import UserError


def check_memory(memory: str) -> None:
    """Raise ValueError for a word that is none of `MEMORY`."""
    if memory not in MEMORY:
        raise UserError(f"lora: memory={memory!r}; expected one of {', '.join(MEMORY)}.")


def set_memory(root: nn.Module, layers: Collection[nn.Module], memory: str) -> str:
    """Let what is recognised in a module keep what `memory` says; state-dict keys and results stay.

    Args:
        root: holds the layers.
        layers: that have just got LoRA.
        memory: one of `MEMORY`.

    Returns:
        What was recognised, in words; empty for nothing.
    """
    layers = [layer for layer in layers if isinstance(layer, OneWeightLoRA)]
    for layer in layers:
        layer.memory = memory
    if memory == "plain" or not layers:
        return ""
    wrapped = set(layers)
    mlps = sum(_is_mlp(module) for module in root.modules() if not wrapped.isdisjoint(module.children()))
    convolutions = sum(_drop_input(module) for module in root.modules())
    remembered = sum(_remember(module) for module in root.modules())
    counts = {"MLPs": mlps, "frozen convolutions": convolutions, "norms and activations": remembered}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _is_mlp(module: nn.Module) -> bool:
    if getattr(module, "runs_pairs", False):
        return True
    # Looked up, not imported: who has a block of timm has timm.
    timm_mlp = getattr(sys.modules.get("timm.layers.mlp"), "Mlp", None)
    if timm_mlp is None or type(module) is not timm_mlp:
        return False
    from loradet.adapters.lean.timm_mlp import LeanMlp

    module.__class__ = LeanMlp
    return True


def _drop_input(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d and not module.weight.requires_grad:
        module.__class__ = LeanConv2d
    return isinstance(module, LeanConv2d)


def _remember(module: nn.Module) -> bool:
    if not keeps_its_input(module):
        return False
    if remember_source not in module._forward_hooks.values():
        module.register_forward_hook(remember_source)
    return True
