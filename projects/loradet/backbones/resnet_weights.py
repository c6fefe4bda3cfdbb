"""ImageNet weights of ResNets, in torchvision's names or in Detectron2's, for Detectron2's `ResNet`."""

import logging
import os
import re
from collections.abc import Iterable, Mapping

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import ResNet

from loradet.adapters.filled import mark_loaded
from loradet.backbones.pixels import IMAGENET_MEAN, IMAGENET_STD
from loradet.backbones.weights import read_state_dict, resolve
from loradet.errors import UserError
from loradet.tensors import check_tensors
from loradet.wording import shorten

logger = logging.getLogger(__name__)

_STANDARD = {
    ("basic", 2, 2, 2, 2): 18,
    ("basic", 3, 4, 6, 3): 34,
    ("bottleneck", 3, 4, 6, 3): 50,
    ("bottleneck", 3, 4, 23, 3): 101,
    ("bottleneck", 3, 8, 36, 3): 152,
}


def resnet_with_weights(*, net: ResNet, weights: str | os.PathLike | None = None) -> ResNet:
    """Load a file of ImageNet weights into a ResNet, in place.

    Names may be torchvision's (`conv1`, `bn1`, `layer1.0.downsample.0`) or Detectron2's (`stem.conv1`,
    `stem.conv1.norm`, `res2.0.shortcut`). The classifier and stages that were not built are passed over. What a file
    cannot tell: torchvision's networks take RGB, normalised, and have `stride_in_1x1=False`; Detectron2's of MSRA take
    BGR with the mean subtracted, and have `stride_in_1x1=True`. Of torchvision's names the network states torchvision's
    `pixel_mean` and `pixel_std` then.

    Args:
        net: with any norm.
        weights: safetensors or pth file; None leaves `net` as it is and says so in the log, with what goes wrong
            where its batch norms are frozen.

    Returns:
        `net`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or of another network; the message says of which, or names tensors.
    """
    if weights is None:
        _warn_of_random_weights(net)
        return net
    path = resolve(weights)
    read = read_state_dict(path)
    state = {_detectron2_name(name): tensor for name, tensor in read.items()}
    own = net.state_dict()
    _check_architecture(path, state, own)
    built = {name.split(".")[0] for name in own}
    passed_over = {"linear", *(f"res{i}" for i in range(2, 6))} - built
    foreign = [
        name for name in state if name not in own and name.split(".")[0] not in passed_over and not _is_counter(name)
    ]
    # Counters of batches are in no file of frozen norms, and in no network that has them.
    missing = [name for name in own if name not in state and not _is_counter(name)]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    kinds = {"missing": missing, "unexpected": foreign, "other shape": shapes}
    problems = [f"{kind}: {shorten(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise UserError(f"{path} does not hold the weights of this ResNet; {'; '.join(problems)}.")
    check_tensors(state, path, own)
    net.load_state_dict({name: tensor for name, tensor in state.items() if name in own}, strict=False)
    mark_loaded(net)
    if "conv1.weight" in read:
        net.pixel_mean, net.pixel_std = IMAGENET_MEAN, IMAGENET_STD
    return net


def _warn_of_random_weights(net: ResNet) -> None:
    if not any(isinstance(module, FrozenBatchNorm2d) for module in net.modules()):
        logger.warning("ResNet starts from random weights: weights=None. What is frozen of it stays random.")
        return
    logger.warning(
        "ResNet starts from random weights: weights=None. Its batch norms are frozen (FrozenBN) and normalise nothing, "
        "unless a checkpoint of the whole detector follows (train.init_checkpoint). Set `weights` to ImageNet weights "
        "(model.backbone.bottom_up.module.weights in configs/common/models/faster_rcnn_fpn.py); to train from "
        "random weights, set norm=BN and freeze nothing."
    )


def _detectron2_name(name: str) -> str:
    """`layer1.0.bn2.weight` to `res2.0.conv2.norm.weight`; Detectron2's own names stay."""
    head, _, rest = name.partition(".")
    if head == "conv1":
        return f"stem.conv1.{rest}"
    if head == "bn1":
        return f"stem.conv1.norm.{rest}"
    if head == "fc":
        return f"linear.{rest}"
    if found := re.fullmatch(r"layer([1-4])", head):
        rest = re.sub(r"\bbn([123])\.", r"conv\1.norm.", rest)
        rest = rest.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        return f"res{int(found[1]) + 1}.{rest}"
    return name


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _check_architecture(path: os.PathLike, state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
    """Compare kind and number of blocks of the stages that `own` has; most wrong files differ there."""
    if "stem.conv1.weight" not in state:
        raise UserError(
            f"{path} holds no ResNet by itself, in torchvision's names or Detectron2's; its tensors are "
            f"{shorten(state)}. A whole detector is loaded by train.init_checkpoint."
        )
    there, here = _blocks(state), _blocks(own)
    if here[1:] and there[: len(here)] != here:
        raise UserError(f"{path} holds {_called(there)}; the config's network is {_called(here)}.")


def _blocks(state: Iterable[str]) -> tuple[str | int, ...]:
    """Kind of block, then number of blocks of each stage."""
    names = list(state)
    places = {(int(found[1]), int(found[2])) for name in names if (found := re.match(r"res(\d+)\.(\d+)\.", name))}
    kind = "bottleneck" if any(".conv3." in name for name in names) else "basic"
    return (kind, *(sum(stage == wanted for stage, _ in places) for wanted in sorted({s for s, _ in places})))


def _called(blocks: tuple[str | int, ...]) -> str:
    kind, *numbers = blocks
    depth = _STANDARD.get(blocks)
    listed = f"stages of {', '.join(map(str, numbers))} {kind} blocks" if numbers else "no stages"
    return f"a ResNet-{depth}" if depth else listed
