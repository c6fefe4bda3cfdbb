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


def run_pair(x: Tensor, first: nn.Module, activation: str, second: nn.Module, memory: str) -> Tensor | None:
    """second(activation(first(x))) that keeps less for backward; None where the plain code must run.

    Args:
        x: input of `first`.
        first, second: linear layers or convolutions, with LoRA or without.
        activation: as of `ActivationStage`.
        memory: as of `run_chain`; "plain" gives None.
    """
    if memory == "plain" or not torch.is_grad_enabled() or is_traced() or has_hooks([first, second]):
        return None
    begin, end = stage_of(first, x), stage_of(second, x)
    if begin is None or end is None:
        return None
    parameters = [p for p in (*begin[1], *end[1]) if p is not None]
    if not x.requires_grad and not any(p.requires_grad for p in parameters):
        return None
    return run_chain(x, [begin, (ActivationStage(activation), ()), end], memory)


def stage_of(layer: nn.Module, x: Tensor) -> tuple[Stage, Parameters] | None:
    """A linear layer or convolution, with LoRA or without, as part of a chain; None for anything else."""
    if isinstance(layer, OneWeightLoRA):
        return layer.stage(x)
    if type(layer) is nn.Linear:
        return LinearStage(dtype=autocast_dtype(x)), (layer.weight, layer.bias, None, None)
    if type(layer) not in (nn.Conv2d, LeanConv2d):
        return None
    if layer.groups != 1 or layer.padding_mode != "zeros" or not isinstance(layer.padding, tuple) or x.dim() != 4:
        return None
    geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    return ConvStage(dtype=autocast_dtype(x), **geometry), (layer.weight, layer.bias, None, None)


def has_hooks(modules: Iterable[nn.Module]) -> bool:
    """Whether someone else waits for one of these modules to be called."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(hook is not remember_source for m in modules for kind in kinds for hook in getattr(m, kind).values())
