"""Weights to begin a training with, where none are loaded."""

import math
import re

import torch
from torch import nn

PRIOR = 0.01  # score of every class at the start, as in https://arxiv.org/abs/1708.02002

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
_CLASS_HEAD = re.compile(r"(?:.*\.)?(?:class_embed|enc_score_head|enc_out_class_embed)(?:\.\d+)?")
_BOX_HEAD = re.compile(r"(?:.*\.)?(?:bbox_embed|enc_bbox_head|pre_bbox_head|enc_out_bbox_embed)(?:\.\d+)?")


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Initialise a network of transformers as its authors did, in place.

    The library draws every layer from one narrow normal distribution, batch norms of some networks included, so that
    features of a fresh network are near 1e-13 and all its scores are tied. Here convolutions and linear layers keep
    the size of what passes (Kaiming, Xavier), norms are the identity, queries differ (normal, deviation 1), scores
    begin at `PRIOR`, and box heads move no box. What the library sets to zeros or to places of its own stays.
    """
    for name, module in network.named_modules():
        if isinstance(module, _NORMS):
            if module.weight is not None:
                nn.init.ones_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            _layer(name, module)
        elif isinstance(module, nn.Embedding):
            _embedding(name, module)
    for name, module in network.named_modules():
        if _BOX_HEAD.fullmatch(name) and hasattr(module, "layers"):
            nn.init.zeros_(module.layers[-1].weight)
            nn.init.zeros_(module.layers[-1].bias)
    if hasattr(network.model, "reference_points"):  # of Deformable DETR: points, to which sizes are added
        nn.init.constant_(network.bbox_embed[0].layers[-1].bias[2:], -2.0)


def _layer(name: str, module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    if _CLASS_HEAD.fullmatch(name):
        module.reset_parameters()
        nn.init.constant_(module.bias, -math.log((1 - PRIOR) / PRIOR))
    elif not _is_constant(module.weight) and (module.bias is None or not module.bias.any()):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        else:
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)  # as torch does
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _embedding(name: str, module: nn.Embedding) -> None:
    if name.endswith("reference_point_embed"):  # moves proposals of RF-DETR and LW-DETR
        nn.init.zeros_(module.weight)
    elif not _is_constant(module.weight) and "denoising" not in name:
        nn.init.normal_(module.weight)


def _is_constant(tensor: torch.Tensor) -> bool:
    return bool((tensor == tensor.flatten()[0]).all())
