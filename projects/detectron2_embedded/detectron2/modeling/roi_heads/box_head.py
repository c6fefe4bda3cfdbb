"""What turns the features of a box into a vector."""

from collections.abc import Callable, Sequence

import torch
from detectron2._subset import missing_names
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.utils.registry import Registry
from fvcore.nn.weight_init import c2_msra_fill, c2_xavier_fill
from torch import nn

ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions `conv1`, `conv2` ..., then fully connected layers `fc1`, `fc2` ..., a ReLU after each."""

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: Sequence[int],
        fc_dims: Sequence[int],
        conv_norm: str | Callable[[int], nn.Module] = "",
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the features of one box.
            conv_dims: channels of the convolutions.
            fc_dims: widths of the fully connected layers.
            conv_norm: see `get_norm`; convolutions have a bias only without one.

        Raises:
            AssertionError: no layer at all.
        """
        super().__init__()
        assert len(conv_dims) + len(fc_dims) > 0, "A box head needs a convolution or a fully connected layer."
        self._output_size: tuple[int, ...] = (input_shape.channels, input_shape.height, input_shape.width)
        for k, channels in enumerate(conv_dims, start=1):
            conv = Conv2d(
                self._output_size[0],
                channels,
                kernel_size=3,
                padding=1,
                bias=not conv_norm,
                norm=get_norm(conv_norm, channels),
                activation=nn.ReLU(),
            )
            self.add_module(f"conv{k}", conv)
            self._output_size = (channels, *self._output_size[1:])
        if fc_dims:
            self.add_module("flatten", nn.Flatten())
        for k, width in enumerate(fc_dims, start=1):
            fc = nn.Linear(torch.Size(self._output_size).numel(), width)
            self.add_module(f"fc{k}", fc)
            self.add_module(f"fc_relu{k}", nn.ReLU())
            self._output_size = (width,)
        # Filled last, first weights are those of Detectron2 under the same seed.
        for layer in self.children():
            if isinstance(layer, Conv2d):
                c2_msra_fill(layer)
            elif isinstance(layer, nn.Linear):
                c2_xavier_fill(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of boxes (N, C, H, W) to (N, C', H, W), or to (N, width) behind a fully connected layer."""
        return super().forward(x)

    @property
    def output_shape(self) -> ShapeSpec:
        """Of the result for one box: channels alone behind a fully connected layer, else height and width too."""
        return ShapeSpec(**dict(zip(("channels", "height", "width"), self._output_size)))


__getattr__ = missing_names(__name__, ["build_box_head"])
