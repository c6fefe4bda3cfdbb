"""A frozen convolution keeps its weight alone for backward; autograd keeps its input too, which nobody needs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradet.adapters.autocast import autocast_dtype
from loradet.adapters.lean.first_order import refuse_second_derivative
from loradet.adapters.lean.source import is_traced
from loradet.adapters.lean.stages import cast, conv_backward


class LeanConv2d(nn.Conv2d):
    """`nn.Conv2d` that keeps nothing of its input while its own parameters are frozen; results are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, O, H', W')."""
        if not self._is_lean(x):
            return super().forward(x)
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        return _FrozenConv2d.apply(x, self.weight, self.bias, geometry, autocast_dtype(x))

    def _is_lean(self, x: Tensor) -> bool:
        frozen = not self.weight.requires_grad and (self.bias is None or not self.bias.requires_grad)
        implicit = self.padding_mode == "zeros" and isinstance(self.padding, tuple)
        return frozen and implicit and torch.is_grad_enabled() and x.requires_grad and x.dim() == 4 and not is_traced()


class _FrozenConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, geometry, dtype):
        ctx.geometry, ctx.dtype, ctx.shape, ctx.strides = geometry, dtype, x.shape, x.stride()
        ctx.save_for_backward(weight)
        x, cast_weight, bias = cast(dtype, x, weight, bias)
        return F.conv2d(x, cast_weight, bias, *geometry)

    @staticmethod
    def backward(ctx, grad):
        refuse_second_derivative()
        (weight,) = cast(ctx.dtype, *ctx.saved_tensors)
        # Of the input shape and memory format alone are read.
        shape_only = torch.empty_strided(ctx.shape, ctx.strides, dtype=grad.dtype, device=grad.device)
        grad_x, _, _ = conv_backward(grad, shape_only, weight, ctx.geometry, (True, False, False))
        return grad_x, None, None, None, None
