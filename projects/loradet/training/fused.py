"""Fused optimizers: on CUDA one kernel takes the step of many parameters, and nothing is read by the host."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.utils.registry import locate
from omegaconf import DictConfig, open_dict
from torch import nn

# Those with kernels for CUDA; torch has others that are fused on the CPU alone.
_KINDS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
_CHOICES = ("fused", "foreach", "capturable", "differentiable")


def with_fused(node: DictConfig, parameters: Iterable[nn.Parameter]) -> DictConfig:
    """The call of an optimizer, with `fused=True` where that can be; one that says how it steps stays as it is.

    Args:
        node: as `L(torch.optim.AdamW)(…)`; changed in place.
        parameters: those that train.
    """
    target = node.get("_target_")
    kind = locate(target) if isinstance(target, str) else target
    if not (inspect.isclass(kind) and issubclass(kind, _KINDS) and "fused" in inspect.signature(kind).parameters):
        return node
    if any(choice in node for choice in _CHOICES):
        return node
    if all(p.device.type == "cuda" and p.is_floating_point() for p in parameters if p.requires_grad):
        with open_dict(node):
            node.fused = True
    return node


def keep_fused(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state from a checkpoint, to be taken over by one that may step otherwise than the one it is of.

    A run may go on on another device, and a state says with its groups how steps are made.
    """
    if len(state["param_groups"]) != len(optimizer.param_groups):
        return state  # the optimizer says so
    own = [{key: group[key] for key in ("fused", "foreach") if key in group} for group in optimizer.param_groups]
    groups = [{**group, **mine} for group, mine in zip(state["param_groups"], own)]
    return {**state, "param_groups": groups}
