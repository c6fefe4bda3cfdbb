"""Gradient checkpointing of timm's networks: backward runs each block again in place of what it would keep."""

import timm.layers
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from loradet.errors import UserError

_FLAG = "grad_checkpointing"


def checkpoint_blocks(net: nn.Module, model_name: str) -> None:
    """Let the blocks of a timm network keep their input alone for backward.

    Raises:
        ValueError: the network has no blocks that timm can checkpoint, or timm is set to its reentrant kind, which
            gives what trains behind a frozen stem no gradient.
    """
    inner = [module for module in net.modules() if module is not net and hasattr(module, _FLAG)]
    # The wrappers that timm makes for feature maps would checkpoint whole stages: they are asked only for want of more.
    parts = inner or [module for module in (net,) if hasattr(module, _FLAG)]
    if not parts:
        raise UserError(f"checkpoint=True: timm has no gradient checkpointing for {model_name!r}; leave it off.")
    if timm.layers.use_reentrant_ckpt():
        raise UserError(
            "checkpoint=True: timm is set to reentrant checkpointing, under which nothing behind a frozen stem trains: "
            "unset TIMM_REENTRANT_CKPT."
        )
    for part in parts:
        setattr(part, _FLAG, True)


def refuse_counting_twice(net: nn.Module) -> None:
    """Raise ValueError where running blocks again would show each batch twice to a batch norm's statistics."""
    if not torch.is_grad_enabled():
        return
    for name, module in net.named_modules():
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats:
            raise UserError(
                f"checkpoint=True: the batch norm {name!r} gathers statistics and would see each batch twice. Freeze "
                "the backbone, or leave checkpoint off."
            )
