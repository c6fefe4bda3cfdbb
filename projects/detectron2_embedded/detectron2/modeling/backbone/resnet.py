"""ResNet: https://arxiv.org/abs/1512.03385."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2._subset import missing_names
from detectron2.layers import CNNBlockBase, Conv2d, get_norm
from detectron2.modeling.backbone.backbone import Backbone
from fvcore.nn.weight_init import c2_msra_fill
from torch import nn
from torch.nn import functional as F

Norm = str | Callable[[int], nn.Module]
ResNetBlockBase = CNNBlockBase

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm: Norm, **kwargs: Any) -> Conv2d:
    """A convolution without bias, padded to keep the size at stride 1, with its norm."""
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kwargs.get("dilation", 1) * (kernel_size // 2),
        bias=False,
        norm=get_norm(norm, out_channels),
        **kwargs,
    )


def _fill(*convs: Conv2d | None) -> None:
    """First weights; made last and in this order, they are those of Detectron2 under the same seed."""
    for conv in convs:
        if conv is not None:
            c2_msra_fill(conv)


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: Norm) -> Conv2d | None:
    """The projection beside a block, or None where the identity fits."""
    if in_channels == out_channels:
        assert stride == 1, f"A block of stride {stride} needs other channels out than in, got {in_channels} for both."
        return None
    return _conv(in_channels, out_channels, 1, norm, stride=stride)


class BasicBlock(CNNBlockBase):
    """Two 3x3 convolutions beside a shortcut: the block of ResNet-18 and -34."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: Norm = "BN") -> None:
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride)
        self.conv2 = _conv(out_channels, out_channels, 3, norm)
        _fill(self.conv1, self.conv2, self.shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        out = self.conv2(F.relu_(self.conv1(x)))
        return F.relu_(out + (x if self.shortcut is None else self.shortcut(x)))


class BottleneckBlock(CNNBlockBase):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: the block of ResNet-50 and deeper."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: Norm = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ) -> None:
        """
        Args:
            bottleneck_channels: channels of the 3x3 convolution.
            num_groups: groups of the 3x3 convolution.
            stride_in_1x1: the first 1x1 convolution takes the stride (as in the original models), not the
                3x3 one.
            dilation: dilation of the 3x3 convolution.
        """
        super().__init__(in_channels, out_channels, stride)
        first_stride, middle_stride = (stride, 1) if stride_in_1x1 else (1, stride)
        width = bottleneck_channels
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, width, 1, norm, stride=first_stride)
        self.conv2 = _conv(width, width, 3, norm, stride=middle_stride, groups=num_groups, dilation=dilation)
        self.conv3 = _conv(width, out_channels, 1, norm)
        _fill(self.conv1, self.conv2, self.conv3, self.shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        out = F.relu_(self.conv1(x))
        out = F.relu_(self.conv2(out))
        out = self.conv3(out)
        return F.relu_(out + (x if self.shortcut is None else self.shortcut(x)))


class BasicStem(CNNBlockBase):
    """A 7x7 convolution and max pooling, of stride 4 together."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: Norm = "BN") -> None:
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2)
        _fill(self.conv1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / 4, W / 4)."""
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """A stem and stages of blocks. Outputs: `stem`, `res2`, `res3` ... and, with a classifier, `linear`."""

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Sequence[CNNBlockBase]],
        num_classes: int | None = None,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
    ) -> None:
        """
        Args:
            stem: has `out_channels` and `stride`.
            stages: lists of blocks; the first list becomes `res2`.
            num_classes: adds global pooling and a linear classifier where given.
            out_features: names of the maps to return, by default the last one. Stages behind the last one
                named are left out.
            freeze_at: see `freeze`.

        Raises:
            AssertionError: an output that this network does not have.
        """
        super().__init__()
        self.stem = stem
        self.num_classes = num_classes
        names = [f"res{i + 2}" for i in range(len(stages))]
        if out_features is None:
            out_features = ["linear"] if num_classes is not None else names[-1:]
        known = ["stem", *names, *(["linear"] if num_classes is not None else [])]
        assert out_features and set(out_features) <= set(known), (
            f"out_features are taken from {', '.join(known)}; got {list(out_features)}."
        )

        if "linear" not in out_features:
            wanted = max(known.index(name) for name in out_features)
            names = names[:wanted]
        self._out_feature_strides = {"stem": stem.stride}
        self._out_feature_channels = {"stem": stem.out_channels}
        stride, channels = stem.stride, stem.out_channels
        for name, blocks in zip(names, stages):
            self.add_module(name, nn.Sequential(*blocks))
            for block in blocks:
                stride *= block.stride
            channels = blocks[-1].out_channels
            self._out_feature_strides[name] = stride
            self._out_feature_channels[name] = channels
        self.stage_names = tuple(names)
        self._out_features = list(out_features)

        if num_classes is not None:
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.linear = nn.Linear(channels, num_classes)
            nn.init.normal_(self.linear.weight, std=0.01)
        self.freeze(freeze_at)

    @property
    def stages(self) -> list[nn.Sequential]:
        """The stages in order; the first is `res2`."""
        return [getattr(self, name) for name in self.stage_names]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, C, H, W) to the maps named in `out_features`; `linear` is (N, num_classes)."""
        assert x.dim() == 4, f"ResNet takes a batch (N, C, H, W), got shape {tuple(x.shape)}."
        x = self.stem(x)
        outputs = {"stem": x}
        for name, stage in zip(self.stage_names, self.stages):
            x = outputs[name] = stage(x)
        if "linear" in self._out_features:
            outputs["linear"] = self.linear(self.avgpool(x).flatten(1))
        return {name: outputs[name] for name in outputs if name in self._out_features}

    def freeze(self, freeze_at: int = 0) -> "ResNet":
        """Freeze nothing (0), the stem (1), the stem and res2 (2), and so on. Batch norms become frozen."""
        if freeze_at >= 1:
            self.stem.freeze()
        for stage in self.stages[: max(freeze_at - 1, 0)]:
            for block in stage:
                block.freeze()
        return self

    @staticmethod
    def make_stage(
        block_class: type[CNNBlockBase],
        num_blocks: int,
        *,
        in_channels: int,
        out_channels: int,
        **kwargs: Any,
    ) -> list[CNNBlockBase]:
        """Blocks of one stage.

        Args:
            kwargs: go to every block. One named `<argument>_per_block` is a list with a value for each block:
                `stride_per_block=[2, 1, 1]`.

        Raises:
            AssertionError: such a list has another length, or the argument is given in both ways.
        """
        per_block = {k.removesuffix("_per_block"): v for k, v in kwargs.items() if k.endswith("_per_block")}
        shared = {k: v for k, v in kwargs.items() if not k.endswith("_per_block")}
        for name, values in per_block.items():
            assert name not in shared, f"Give either {name} or {name}_per_block, not both."
            assert len(values) == num_blocks, (
                f"{name}_per_block has {len(values)} values, the stage has {num_blocks} blocks."
            )
        blocks = []
        for i in range(num_blocks):
            own = {name: values[i] for name, values in per_block.items()}
            blocks.append(block_class(in_channels=in_channels, out_channels=out_channels, **shared, **own))
            in_channels = out_channels
        return blocks

    @staticmethod
    def make_default_stages(
        depth: int, block_class: type[CNNBlockBase] | None = None, **kwargs: Any
    ) -> list[list[CNNBlockBase]]:
        """The four stages of ResNet-18, -34, -50, -101 or -152.

        Args:
            block_class: BasicBlock (18, 34) or BottleneckBlock by default.
            kwargs: further arguments of every block.
        """
        if depth not in BLOCKS_PER_STAGE:
            known = ", ".join(map(str, BLOCKS_PER_STAGE))
            raise ValueError(f"There is no standard ResNet of depth {depth}; there are {known}.")
        basic = depth < 50
        block_class = block_class or (BasicBlock if basic else BottleneckBlock)
        in_channels = 64
        stages = []
        for i, num_blocks in enumerate(BLOCKS_PER_STAGE[depth]):
            width = 64 * 2**i
            out_channels = width if basic else 4 * width
            own = {} if basic else {"bottleneck_channels": width}
            strides = [1 if i == 0 else 2] + [1] * (num_blocks - 1)
            stages.append(
                ResNet.make_stage(
                    block_class,
                    num_blocks,
                    in_channels=in_channels,
                    out_channels=out_channels,
                    stride_per_block=strides,
                    **{**own, **kwargs},
                )
            )
            in_channels = out_channels
        return stages


make_stage = ResNet.make_stage


__getattr__ = missing_names(__name__, ["DeformBottleneckBlock", "build_resnet_backbone"])
