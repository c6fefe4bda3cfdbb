"""Dropout before a linear map without a second copy of the input.

Plain autograd would keep the dropped input for the map's weight gradient, beside the input itself that the wrapped
layer keeps. Here the input and a one-byte mask are kept, and the dropped input is made again in backward.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def dropout_linear(x: Tensor, weight: Tensor, p: float) -> Tensor:
    """`F.linear(F.dropout(x, p), weight)`.

    Args:
        x: (..., C), already in the dtype to compute in.
        weight: (O, C); cast to the dtype of `x`.
        p: probability that an element is dropped, below 1.

    Returns:
        (..., O).
    """
    return _DropoutLinear.apply(x, _keep_mask(x, p), weight.to(x.dtype), 1 / (1 - p))


def dropout_conv2d(
    x: Tensor,
    weight: Tensor,
    p: float,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """`F.conv2d(F.dropout(x, p), weight, None, stride, padding, dilation, groups)`.

    Args:
        x: (N, C, H, W) or (C, H, W), already in the dtype to compute in.
        weight: (O, C / groups, KH, KW); cast to the dtype of `x`.
        p: probability that an element is dropped, below 1.

    Returns:
        (N, O, H', W') or (O, H', W').
    """
    batch = x if x.dim() == 4 else x.unsqueeze(0)
    keep = _keep_mask(batch, p)
    y = _DropoutConv2d.apply(batch, keep, weight.to(x.dtype), 1 / (1 - p), stride, padding, dilation, groups)
    return y if x.dim() == 4 else y.squeeze(0)


def _keep_mask(x: Tensor, p: float) -> Tensor:
    return torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p)


class _DropoutLinear(torch.autograd.Function):
    @staticmethod
    def forward(x, keep, weight, scale):
        return F.linear(x * keep * scale, weight)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ARG004
        x, keep, weight, ctx.scale = inputs
        ctx.save_for_backward(x, keep, weight)

    @staticmethod
    def backward(ctx, grad):
        x, keep, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight) * keep * ctx.scale
        if ctx.needs_input_grad[2]:
            dropped = x * keep * ctx.scale
            grad_weight = grad.reshape(-1, grad.shape[-1]).t() @ dropped.reshape(-1, x.shape[-1])
        return grad_x, None, grad_weight, None


class _DropoutConv2d(torch.autograd.Function):
    @staticmethod
    def forward(x, keep, weight, scale, stride, padding, dilation, groups):
        return F.conv2d(x * keep * scale, weight, None, stride, padding, dilation, groups)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ARG004
        x, keep, weight, ctx.scale, *ctx.geometry = inputs
        ctx.save_for_backward(x, keep, weight)

    @staticmethod
    def backward(ctx, grad):
        x, keep, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.nn.grad.conv2d_input(x.shape, weight, grad, *ctx.geometry) * keep * ctx.scale
        if ctx.needs_input_grad[2]:
            dropped = x * keep * ctx.scale
            grad_weight = torch.nn.grad.conv2d_weight(dropped, weight.shape, grad, *ctx.geometry)
        return grad_x, None, grad_weight, None, None, None, None, None
