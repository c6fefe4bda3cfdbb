"""Stages of Detectron2's ResNets, of every depth by one call."""

from typing import Any

from detectron2.modeling import ResNet


def resnet_stages(*, depth: int, stride_in_1x1: bool = False, **kwargs: Any) -> list:
    """`ResNet.make_default_stages`; `stride_in_1x1` is left out where blocks have no 1x1 convolution (depths 18, 34).

    Args:
        depth: 18, 34, 50, 101 or 152.
        stride_in_1x1: see `BottleneckBlock`.
        **kwargs: as `make_default_stages` takes them, `norm` among them.
    """
    if depth >= 50:
        kwargs["stride_in_1x1"] = stride_in_1x1
    return ResNet.make_default_stages(depth, **kwargs)
