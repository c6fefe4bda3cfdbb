"""torchvision's ResNets as Detectron2 backbones, under the names of published DETR weights."""

import os
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from torch import nn

from loradet.adapters.filled import mark_loaded
from loradet.backbones.pixels import IMAGENET_MEAN, IMAGENET_STD
from loradet.backbones.weights import read_state_dict, resolve
from loradet.errors import UserError
from loradet.tensors import check_tensors

_BUILDERS = {depth: f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}
_STAGES = {"res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}
_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class TorchvisionResNet(Backbone):
    """A ResNet whose stride lies in the 3×3 convolutions, without dilation; its layers are in `body`.

    Stages after the last output asked for are not built. Inputs are RGB, normalised by ImageNet's mean and standard
    deviation, of any size: maps have sides of ceil(side / stride).
    """

    pixel_mean, pixel_std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        *,
        depth: int = 50,
        out_features: Sequence[str] = ("res5",),
        norm: str = "FrozenBN",
        weights: str | os.PathLike | None = None,
    ) -> None:
        """
        Args:
            depth: 18, 34, 50, 101 or 152.
            out_features: of `res2`, `res3`, `res4`, `res5`, of strides 4, 8, 16 and 32.
            norm: "FrozenBN" (statistics and affine map never change, for pretrained weights) or "BN", which trains, for
                random ones.
            weights: safetensors or pth file of a torchvision ResNet; random weights without it.

        Raises:
            ValueError: an unknown depth, output or norm, or a file of another network.
            FileNotFoundError: no such file.
        """
        super().__init__()
        unknown = [name for name in out_features if name not in _STAGES]
        if depth not in _BUILDERS or unknown or not out_features or norm not in ("FrozenBN", "BN"):
            raise UserError(
                f"depth={depth}, out_features={list(out_features)}, norm={norm!r}: expected a depth of "
                f"{', '.join(map(str, _BUILDERS))}, some of {', '.join(_STAGES)}, and FrozenBN or BN."
            )
        net = getattr(torchvision.models, _BUILDERS[depth])(weights=None)
        known = set(net.state_dict())
        self._out_features = [name for name in _STAGES if name in set(out_features)]
        names = list(_STAGES)[: list(_STAGES).index(self._out_features[-1]) + 1]
        layers = ["conv1", "bn1", "relu", "maxpool", *(_STAGES[name] for name in names)]
        self.body = nn.Sequential(OrderedDict((name, getattr(net, name)) for name in layers))
        self._out_feature_strides = {name: _STRIDES[name] for name in self._out_features}
        widths = {name: net.fc.in_features // 2 ** (3 - i) for i, name in enumerate(_STAGES)}
        self._out_feature_channels = {name: widths[name] for name in self._out_features}
        if norm == "FrozenBN":
            FrozenBatchNorm2d.convert_frozen_batchnorm(self.body)
            _drop_counters(self.body)
        if weights is not None:
            _load(self.body, weights, known, depth)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Normalised images (N, 3, H, W) to maps by name, (N, C, ceil(H / stride), ceil(W / stride))."""
        wanted = {_STAGES[name]: name for name in self._out_features}
        outputs = {}
        for name, layer in self.body.named_children():
            x = layer(x)
            if name in wanted:
                outputs[wanted[name]] = x
        return outputs


def _drop_counters(body: nn.Module) -> None:
    """Frozen norms keep the counter of the norm that they were made from; published files have none."""
    for module in body.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.num_batches_tracked = None


def _load(body: nn.Module, weights: str | os.PathLike, known: set[str], depth: int) -> None:
    """Load a file of the whole network, whose names are `known`, into the layers that were built."""
    path = resolve(weights)
    state = read_state_dict(path)
    # Classifier, stages that were not built, and counters that a frozen batch norm does not have are passed over.
    foreign = [name for name in state if name not in known]
    own = body.state_dict()
    kept = {name: tensor for name, tensor in state.items() if name in own}
    missing = [name for name in own if name not in kept and not name.endswith("num_batches_tracked")]
    shapes = [name for name, tensor in kept.items() if tensor.shape != own[name].shape]
    for kind, names in (("missing", missing), ("unexpected", foreign), ("of another shape", shapes)):
        if names:
            raise UserError(f"{path} is no torchvision ResNet-{depth}: {kind} are {', '.join(names[:5])}.")
    check_tensors(kept, path, own)
    body.load_state_dict(kept, strict=False)
    mark_loaded(body)
