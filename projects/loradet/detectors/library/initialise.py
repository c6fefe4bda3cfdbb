"""Weights to begin a training with, where none are loaded."""

import torch
from torch import nn

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Initialise a network of transformers as its authors did, in place.

    The library draws every layer from one narrow normal distribution, batch norms of some networks included, so that
    features of a fresh network are near 1e-13 and all its scores are tied. Here convolutions and linear layers keep
    the size of what passes (Kaiming, Xavier), norms are the identity, and queries differ (normal, deviation 1). What
    the library sets to a value of its own stays: zeros of last layers, offsets of sampling points, biases of class
    heads.
    """
    for name, module in network.named_modules():
        if isinstance(module, _NORMS):
            if module.weight is not None:
                nn.init.ones_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            if not _is_constant(module.weight) and (module.bias is None or not module.bias.any()):
                _reset(module)
        elif isinstance(module, nn.Embedding) and not _is_constant(module.weight) and "denoising" not in name:
            nn.init.normal_(module.weight)


def _reset(module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    else:
        nn.init.kaiming_uniform_(module.weight, a=5**0.5)  # as torch does
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _is_constant(tensor: torch.Tensor) -> bool:
    return bool((tensor == tensor.flatten()[0]).all())
