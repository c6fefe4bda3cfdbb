"""linear map → activation → linear map, of which at least one has LoRA, as one chain."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from loradet.adapters.autocast import autocast_dtype
from loradet.adapters.lean.chain import run_chain
from loradet.adapters.lean.frozen_conv import LeanConv2d
from loradet.adapters.lean.source import is_traced, remember_source
from loradet.adapters.lean.stages import ActivationStage, ConvStage, LinearStage, Parameters, Stage
from loradet.adapters.lora_layers import OneWeightLoRA


def run_pair(x: Tensor, first: nn.Module, activation: str, second: nn.Module) -> Tensor | None:
    """second(activation(first(x))) that keeps what `memory` of the layers says; None where their own code must run.

    Args:
        x: input of `first`.
        first, second: linear layers or convolutions, at least one of them with LoRA.
        activation: as of `ActivationStage`.
    """
    memory = _memory_of(first, second)
    if memory == "plain" or not torch.is_grad_enabled() or is_traced() or has_hooks([first, second]):
        return None
    begin, end = stages_of(first, x), stages_of(second, x)
    if not begin or not end:
        return None
    parameters = [p for _, group in (*begin, *end) for p in group if p is not None]
    if not x.requires_grad and not any(p.requires_grad for p in parameters):
        return None
    return run_chain(x, [*begin, (ActivationStage(activation), ()), *end], memory)


def _memory_of(*layers: nn.Module) -> str:
    """What layers with LoRA have in common: the one that keeps most."""
    asked = {layer.memory for layer in layers if isinstance(layer, OneWeightLoRA)}
    return next((memory for memory in ("plain", "lean", "least") if memory in asked), "plain")


def stages_of(layer: nn.Module, x: Tensor) -> list[tuple[Stage, Parameters]]:
    """A linear layer or convolution, with LoRA or without, as part of a chain; empty for anything else."""
    if isinstance(layer, OneWeightLoRA):
        return layer.stages(x)
    if type(layer) is nn.Linear:
        return [(LinearStage(dtype=autocast_dtype(x)), (layer.weight, layer.bias, None, None))]
    if type(layer) not in (nn.Conv2d, LeanConv2d):
        return []
    if layer.groups != 1 or layer.padding_mode != "zeros" or not isinstance(layer.padding, tuple) or x.dim() != 4:
        return []
    geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    return [(ConvStage(dtype=autocast_dtype(x), **geometry), (layer.weight, layer.bias, None, None))]


def has_hooks(modules: Iterable[nn.Module]) -> bool:
    """Whether someone else waits for one of these modules to be called."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(hook is not remember_source for m in modules for kind in kinds for hook in getattr(m, kind).values())
