"""Output channels scaled, their bias left as it is: what DoRA adds to a chain."""

from dataclasses import dataclass

import torch
from torch import Tensor

from loradet.adapters.lean.stages import Kept, Parameters


def scale_channels(y: Tensor, scale: Tensor, bias: Tensor | None, trailing: int) -> Tensor:
    """scale · (y - bias) + bias, where y has the bias in it; y itself, to the last bit, where the scale is 1.

    Args:
        y: (..., O) or (N, O, H, W).
        scale: (O,).
        bias: (O,), None for none.
        trailing: axes behind that of the channels, 0 or 2.
    """
    scale = scale.to(y.dtype)
    if bias is None:
        return y * _channels(scale, trailing)
    rest = bias.to(y.dtype) * (1 - scale)
    return torch.addcmul(_channels(rest, trailing), y, _channels(scale, trailing))


@dataclass(frozen=True)
class ScaleStage:
    """`scale_channels`; parameters are (scale, bias). It never writes into a gradient: it may be the last of a chain.

    Attributes:
        trailing: as there.
    """

    trailing: int = 0
    parameters = 2
    pointwise = True

    def run(self, x: Tensor, parameters: Parameters, kept: Kept | None = None) -> tuple[Tensor, Kept]:
        del kept
        scale, bias = parameters
        return scale_channels(x, scale, bias, self.trailing), Kept()

    def backward(
        self, grad: Tensor, x: Tensor, parameters: Parameters, kept: Kept, needs: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        del kept
        scale, bias = parameters
        need_x, need_scale, need_bias = needs
        others = [axis for axis in range(grad.dim()) if axis != grad.dim() - 1 - self.trailing]
        factor = _channels(scale.to(grad.dtype), self.trailing)
        grad_x = grad_scale = grad_bias = None
        if need_scale:
            product = grad * x
            grad_scale = product.sum(others, dtype=scale.dtype)
            grad_x = torch.mul(grad, factor, out=product) if need_x else None  # in the memory that is there
        elif need_x:
            grad_x = grad * factor
        if bias is not None and (need_scale or need_bias):
            total = grad.sum(others, dtype=scale.dtype)
            grad_scale = grad_scale - bias * total if need_scale else None
            grad_bias = (total * (1 - scale)).to(bias.dtype) if need_bias else None
        return grad_x, grad_scale, grad_bias


def _channels(values: Tensor, trailing: int) -> Tensor:
    return values.view(-1, *[1] * trailing)
