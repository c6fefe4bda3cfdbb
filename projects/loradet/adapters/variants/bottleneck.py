"""What the small modules that stand beside a frozen block have in common."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """A down and an up projection with something in between; zero for every input at first.

    Its parameters are plain ones, of shapes that follow from channels and rank, so a bank can give it another rank.

    Args:
        channels: C, of input and output.
        rank: R, channels in between.
        dropout: probability of dropping an element before the up projection, in train mode.
        like: a tensor of the device, and of the dtype where that is a float.
    """

    down_weight: nn.Parameter
    down_bias: nn.Parameter
    up_weight: nn.Parameter
    up_bias: nn.Parameter

    def __init__(self, channels: int, rank: int, dropout: float, like: Tensor):
        super().__init__()
        self.channels, self.dropout = channels, float(dropout)
        dtype = like.dtype if like.is_floating_point() else torch.float32
        for name, shape in self.shapes(channels, rank).items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, dtype=dtype, device=like.device)))
        self.reset_parameters()

    @staticmethod
    def shapes(channels: int, rank: int) -> dict[str, tuple[int, ...]]:
        """Name → shape of each parameter."""
        return {
            "down_weight": (rank, channels),
            "down_bias": (rank,),
            "up_weight": (channels, rank),
            "up_bias": (channels,),
        }

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Matrices and filters Kaiming-uniform with a=√5, as torch's layers; biases and the up projection zero."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
            else:
                nn.init.zeros_(parameter)
        nn.init.zeros_(self.up_weight)

    @property
    def is_zero(self) -> bool:
        """Whether every output is zero."""
        return not self.up_weight.any() and not self.up_bias.any()

    def replace(self, tensors: Mapping[str, Tensor], dropout: float) -> None:
        """Take over other values, of any rank."""
        self.dropout = float(dropout)
        for name, parameter in self.named_parameters():
            if tensors[name].shape == parameter.shape:
                parameter.data.copy_(tensors[name])
            else:  # the parameter stays the same object, whoever holds it
                parameter.grad = None
                parameter.data = tensors[name].to(parameter.data, copy=True)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, rank={len(self.down_bias)}, dropout={self.dropout:g}"
