"""Detectron2's feature pyramid, built from what a backbone says of its maps."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import nn

from loradet.errors import UserError


def pyramid(
    *,
    bottom_up: Backbone,
    in_features: Sequence[str] | None = None,
    out_channels: int = 256,
    extra_levels: int = 2,
    extra_from: str | None = None,
    norm: str = "",
    fuse_type: str = "sum",
    square_pad: int = 0,
    top_block: nn.Module | Mapping[str, int | str | None] | None = None,
) -> FPN:
    """Detectron2's `FPN` (https://arxiv.org/abs/1612.03144): channels and strides are read off `bottom_up`.

    Its outputs are `p<log2 of stride>`, so those of strides 8, 16, 32 and two extra levels are `p3` … `p7`.

    Args:
        bottom_up: the backbone; `output_shape()` says channels and stride of each of its maps.
        in_features: names of the maps that the pyramid mixes, finest first, each of twice the stride of the one before;
            None takes all that there are.
        out_channels: of every level.
        extra_levels: coarser levels above the last map: 0; 1, every second position of the last level
            (`LastLevelMaxPool`, as R-CNNs have it); or 2, by convolutions of stride 2 (`LastLevelP6P7`, as RetinaNet).
        extra_from: what two extra levels are made of: a map of `bottom_up`, or a level such as `p5`; None is the
            last one of `in_features`.
        norm: of the pyramid's convolutions, as `FPN` takes it.
        fuse_type: "sum" or "avg".
        square_pad: as `FPN` takes it.
        top_block: a module of another kind to make the extra levels by, in place of `extra_levels`. Configs of before
            have `in_channels`, `out_channels` and `in_feature` of `LastLevelP6P7` here: the last one is `extra_from`,
            and the widths have to be what the backbone says.

    Raises:
        UserError: maps that `bottom_up` does not have or whose strides do not double, another number of extra levels,
            or widths that are not the backbone's.
    """
    shapes = bottom_up.output_shape()
    names = _checked_features(in_features, shapes)
    if isinstance(top_block, nn.Module):
        block = top_block
    else:
        given = {key: value for key, value in (top_block or {}).items() if value is not None}
        block = _extra_block(extra_levels, extra_from, given, names, shapes, out_channels)
    return FPN(
        bottom_up=bottom_up,
        in_features=names,
        out_channels=out_channels,
        norm=norm,
        top_block=block,
        fuse_type=fuse_type,
        square_pad=square_pad,
    )


def _checked_features(in_features: Sequence[str] | None, shapes: Mapping[str, ShapeSpec]) -> list[str]:
    names = sorted(shapes, key=lambda name: shapes[name].stride) if in_features is None else list(in_features)
    listed = ", ".join(f"{name} (stride {shape.stride})" for name, shape in shapes.items())
    unknown = [name for name in names if name not in shapes]
    if unknown or not names:
        raise UserError(
            f"in_features={names} of the pyramid: the backbone gives {listed}. Its out_features say which ones."
        )
    strides = [shapes[name].stride for name in names]
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)) or not math.log2(strides[0]).is_integer():
        raise UserError(
            f"in_features={names} of the pyramid: their strides must double from one to the next, and the backbone "
            f"gives {listed}. Of maps of one stride, as a ViT has them, SimpleFeaturePyramid makes a pyramid "
            "(configs/common/models/retinanet_vit.py)."
        )
    return names


def _extra_block(
    count: int,
    extra_from: str | None,
    given: Mapping[str, int | str],
    names: Sequence[str],
    shapes: Mapping[str, ShapeSpec],
    out_channels: int,
) -> nn.Module | None:
    """What makes the extra levels; `given` is what an older config says of `LastLevelP6P7`."""
    levels = [f"p{int(math.log2(shapes[name].stride))}" for name in names]
    if unknown := given.keys() - {"in_channels", "out_channels", "in_feature"}:
        raise UserError(
            f"top_block of the pyramid has {', '.join(sorted(unknown))}: extra_levels and extra_from say it."
        )
    if count not in (0, 1, 2):
        raise UserError(
            f"extra_levels={count} of the pyramid: expected 0, 1 (LastLevelMaxPool) or 2 (LastLevelP6P7); top_block "
            "takes a module that makes others."
        )
    source = extra_from or given.get("in_feature")
    if count < 2:
        words = [f"top_block.{key}={value}" for key, value in given.items()]
        if extra_from is not None or words:
            first = f"extra_from={extra_from}" if extra_from is not None else words[0]
            raise UserError(f"{first} of the pyramid says what two extra levels are made of, and extra_levels={count}.")
        block = LastLevelMaxPool() if count else None
        if block is not None:
            block.in_feature = levels[-1]
        return block
    source = source or names[-1]
    widths = {name: shape.channels for name, shape in shapes.items()} | dict.fromkeys(levels, out_channels)
    if source not in widths:
        raise UserError(f"extra_from={source!r} of the pyramid: expected one of {', '.join(widths)}.")
    for key, right in (("in_channels", widths[source]), ("out_channels", out_channels)):
        if given.get(key, right) != right:
            raise UserError(
                f"top_block.{key}={given[key]} of the pyramid, but {source if key == 'in_channels' else 'it'} has "
                f"{right} channels. Leave it out: the pyramid reads it off the backbone."
            )
    return LastLevelP6P7(widths[source], out_channels, in_feature=source)
