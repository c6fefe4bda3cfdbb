"""The parts that a chain is made of, each with its forward and its backward pass; numbers as of autograd's.

Parameters come as a tuple (weight, bias, lora_a, lora_b) with None for what there is not; an activation has none.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Parameters = tuple[Tensor | None, ...]


class Kept(NamedTuple):
    """What a stage keeps beside its input: the scaled hidden (..., R) of the low-rank path, and dropout's mask."""

    hidden: Tensor | None = None
    mask: Tensor | None = None


class Stage(Protocol):
    """A part of a chain."""

    parameters: int
    pointwise: bool

    def run(self, x: Tensor, parameters: Parameters, kept: Kept | None = None) -> tuple[Tensor, Kept]:
        """The output, and what to keep; what was kept of the run before makes it the same run again."""

    def backward(
        self, grad: Tensor, x: Tensor, parameters: Parameters, kept: Kept, needs: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Gradients of the input and of each parameter, None where `needs` says False; may write into `grad`."""


@dataclass(frozen=True)
class LinearStage:
    """W x + b, and scaling · B A drop(x) where there are factors. (..., C) → (..., O).

    Attributes:
        scaling: of the low-rank path.
        dropout: probability at present.
        dtype: that autocast computes in; None without it.
    """

    scaling: float = 1.0
    dropout: float = 0.0
    dtype: torch.dtype | None = None
    parameters = 4
    pointwise = False

    def run(self, x: Tensor, parameters: Parameters, kept: Kept | None = None) -> tuple[Tensor, Kept]:
        x, weight, bias, a, b = cast(self.dtype, x, *parameters)
        y = F.linear(x, weight, bias)
        if a is None:
            return y, Kept()
        kept = kept or self._low(x, a)
        if y.is_contiguous():
            add_product(flat(y), flat(kept.hidden), b.t())
        else:
            y += F.linear(kept.hidden, b)
        return y, kept

    def _low(self, x: Tensor, a: Tensor) -> Kept:
        mask = draw_mask(x, self.dropout) if self.dropout else None
        return Kept(F.linear(masked(x, mask, self.dropout), a).mul_(self.scaling), mask)

    def backward(
        self, grad: Tensor, x: Tensor, parameters: Parameters, kept: Kept, needs: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        x, weight, _, a, b = cast(self.dtype, x, *parameters)
        shape, grad, x = x.shape, flat(grad), flat(x)
        need_x, need_weight, need_bias, need_a, need_b = needs
        grad_x = grad @ weight if need_x else None
        grad_weight = grad.t() @ x if need_weight else None
        grad_bias = grad.sum(0) if need_bias else None
        grad_b = grad.t() @ flat(kept.hidden) if need_b else None
        grad_a = None
        if a is not None and (need_a or need_x):
            grad_hidden = (grad @ b).mul_(self.scaling)
            mask = None if kept.mask is None else flat(kept.mask)
            grad_a = grad_hidden.t() @ masked(x, mask, self.dropout) if need_a else None
            if need_x and mask is None:
                add_product(grad_x, grad_hidden, a)
            elif need_x:
                grad_x += masked(grad_hidden @ a, mask, self.dropout)
        return (None if grad_x is None else grad_x.view(shape)), grad_weight, grad_bias, grad_a, grad_b


@dataclass(frozen=True)
class ConvStage:
    """The same of convolutions: lora_a has the kernel and geometry of the base, lora_b is 1×1. (N, C, H, W) →.

    Attributes:
        scaling, dropout, dtype: as of `LinearStage`.
        stride, padding, dilation: of the base, in numbers; there are no groups.
    """

    scaling: float = 1.0
    dropout: float = 0.0
    dtype: torch.dtype | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    parameters = 4
    pointwise = False

    @property
    def geometry(self) -> tuple:
        """Arguments of `F.conv2d` that follow the bias."""
        return self.stride, self.padding, self.dilation, 1

    def run(self, x: Tensor, parameters: Parameters, kept: Kept | None = None) -> tuple[Tensor, Kept]:
        x, weight, bias, a, b = cast(self.dtype, x, *parameters)
        y = F.conv2d(x, weight, bias, *self.geometry)
        if a is None:
            return y, Kept()
        kept = kept or self._low(x, a)
        return y.add_(F.conv2d(kept.hidden, b)), kept

    def _low(self, x: Tensor, a: Tensor) -> Kept:
        mask = draw_mask(x, self.dropout) if self.dropout else None
        return Kept(F.conv2d(masked(x, mask, self.dropout), a, None, *self.geometry).mul_(self.scaling), mask)

    def backward(
        self, grad: Tensor, x: Tensor, parameters: Parameters, kept: Kept, needs: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        x, weight, _, a, b = cast(self.dtype, x, *parameters)
        need_x, need_weight, need_bias, need_a, need_b = needs
        grad_x, grad_weight, grad_bias = conv_backward(grad, x, weight, self.geometry, (need_x, need_weight, need_bias))
        grad_a = grad_b = None
        if a is not None and (need_a or need_b or need_x):
            point = ((1, 1), (0, 0), (1, 1), 1)
            grad_hidden, grad_b, _ = conv_backward(grad, kept.hidden, b, point, (need_a or need_x, need_b, False))
            if need_a or need_x:
                grad_hidden.mul_(self.scaling)
                dropped = masked(x, kept.mask, self.dropout) if need_a else x
                low, grad_a, _ = conv_backward(grad_hidden, dropped, a, self.geometry, (need_x, need_a, False))
                if need_x:
                    grad_x += masked(low, kept.mask, self.dropout)
        return grad_x, grad_weight, grad_bias, grad_a, grad_b


@dataclass(frozen=True)
class ActivationStage:
    """A function of each element.

    Attributes:
        name: "gelu", "gelu_tanh", "silu" or "relu".
    """

    name: str
    parameters = 0
    pointwise = True

    def run(self, x: Tensor, parameters: Parameters, kept: Kept | None = None) -> tuple[Tensor, Kept]:
        del parameters, kept
        if self.name == "relu":
            return F.relu(x), Kept()
        return (F.silu(x) if self.name == "silu" else F.gelu(x, approximate=self._approximation)), Kept()

    def backward(
        self, grad: Tensor, x: Tensor, parameters: Parameters, kept: Kept, needs: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        del parameters, kept, needs
        aten = torch.ops.aten
        if self.name == "relu":
            return (aten.threshold_backward.grad_input(grad, x, 0, grad_input=grad),)
        if self.name == "silu":
            return (aten.silu_backward.grad_input(grad, x, grad_input=grad),)
        return (aten.gelu_backward.grad_input(grad, x, approximate=self._approximation, grad_input=grad),)

    @property
    def _approximation(self) -> str:
        return "tanh" if self.name == "gelu_tanh" else "none"


def flat(x: Tensor) -> Tensor:
    """(..., C) → (N, C)."""
    return x.reshape(-1, x.shape[-1])


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right; below float32 the product is rounded before it is added, as autograd does it."""
    if total.dtype.itemsize < 4:
        total += left @ right
    else:
        total.addmm_(left, right)


def cast(dtype: torch.dtype | None, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Tensors as autocast's linear maps would cast them."""
    return tensors if dtype is None else tuple(None if t is None else t.to(dtype) for t in tensors)


def draw_mask(x: Tensor, p: float) -> Tensor:
    """True for what stays, with probability 1 - p."""
    return torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p)


def masked(x: Tensor, mask: Tensor | None, p: float) -> Tensor:
    """What stays of x, over 1 - p."""
    return x if mask is None else x * mask * (1 / (1 - p))


def conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: tuple, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias of `F.conv2d(x, weight, bias, *geometry)`, where they are needed."""
    if not any(needs):
        return None, None, None
    stride, padding, dilation, groups = geometry
    sizes = [weight.shape[0]]
    return torch.ops.aten.convolution_backward(
        grad, x, weight, sizes, stride, padding, dilation, False, (0, 0), groups, needs
    )
