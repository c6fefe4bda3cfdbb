"""DoRA: the weight's rows have a length of their own beside a low-rank change of their direction.

W' = m · (W + s B A) / ‖W + s B A‖, a norm a row (Liu et al., "DoRA", arXiv:2402.09353, equation 5). The norm is a
constant in backward, as in section 4.3 there.
"""

from typing import Any

import torch
from torch import Tensor, nn

from loradet.adapters.lean.scaling import ScaleStage, scale_channels
from loradet.adapters.lean.source import is_traced
from loradet.adapters.lean.stages import Parameters, Stage
from loradet.adapters.lora_layer import low_rank_product
from loradet.adapters.lora_layers import LoRAConv2d, LoRALinear, OneWeightLoRA


class _DoRA(OneWeightLoRA):
    """A LoRA layer whose weight has rows of trained length; `lora_magnitude` (O,) comes besides."""

    lora_magnitude: nn.Parameter
    # Squares of the frozen weight's row norms, and the place and version of the weight that they are of.
    _known_squares: tuple[tuple[int, int], Tensor] | None = None

    def _add_factors(self, rank: int, alpha: float, dropout: float, freeze_base: bool) -> None:
        super()._add_factors(rank, alpha, dropout, freeze_base)
        # Of float32 at least: what is divided by the norm must be the norm itself, so that step 0 is the base.
        self.lora_magnitude = nn.Parameter(self._row_norms())

    def _row_norms(self) -> Tensor:
        return row_norms(self._row_squares(), self.weight, *self._low_rank_factors(), self.scaling)

    def _row_squares(self) -> Tensor:
        if self.weight.requires_grad or self.weight.is_inference() or self.merged or is_traced():
            return row_squares(self.weight)
        where = self.weight.data_ptr(), self.weight._version
        if self._known_squares is None or self._known_squares[0] != where:
            self._known_squares = where, row_squares(self.weight)
        return self._known_squares[1]

    def _row_scales(self) -> Tensor:
        """m / ‖W + s B A‖, (O,); with gradient for m alone."""
        norms = self._row_norms()
        return torch.where(norms > 0, self.lora_magnitude / norms, 1.0)

    def adapter_tensors(self) -> dict[str, Tensor]:
        return {**super().adapter_tensors(), "lora_magnitude": self.lora_magnitude}

    def adapter_shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        return {**super().adapter_shapes(rank), "lora_magnitude": (self.weight.shape[0],)}

    @property
    def is_base(self) -> bool:
        return super().is_base and torch.equal(self.lora_magnitude, self._row_norms())

    @property
    def _trailing(self) -> int:
        return self.weight.dim() - 2

    def _plain_forward(self, x: Tensor) -> Tensor:
        return scale_channels(super()._plain_forward(x), self._row_scales(), self.bias, self._trailing)

    def stages(self, x: Tensor) -> list[tuple[Stage, Parameters]]:
        found = super().stages(x)
        return [*found, (ScaleStage(self._trailing), (self._row_scales(), self.bias))] if found else []

    def delta_weight(self) -> Tensor:
        with torch.no_grad():
            summed = self.weight + low_rank_product(*self._low_rank_factors(), self.scaling).view(self.weight.shape)
            return summed * self._row_scales().view(-1, *[1] * (summed.dim() - 1)) - self.weight

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if f"{prefix}weight" in state_dict and f"{prefix}lora_magnitude" not in state_dict and not self.merged:
            # A base that comes after the wrapping: its rows have other lengths.
            self.lora_magnitude.data = self._row_norms()


class DoRALinear(_DoRA, LoRALinear):
    """`nn.Linear` with DoRA; state-dict keys `weight`, `bias`, `lora_a`, `lora_b`, `lora_magnitude` (O,)."""


class DoRAConv2d(_DoRA, LoRAConv2d):
    """`nn.Conv2d` with DoRA; a row of the weight is all that makes one output channel."""


@torch.no_grad()
def row_squares(weight: Tensor) -> Tensor:
    """‖w‖² of each row, (O,), of at least float32; all but the first axis are flat."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return torch.linalg.vector_norm(weight.flatten(1), dim=1, dtype=dtype).square()


def row_norms(squares: Tensor, weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """‖W + scaling · B A‖ of each row, (O,), without the sum itself: ‖w‖² + 2 s b·(A w) + s² b·(A Aᵀ) b.

    At least float32, without gradient. All but the first axis of the weight and of A are flat.

    Args:
        squares: ‖w‖², as of `row_squares`.
    """
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        weight, a, b = (tensor.to(squares.dtype).flatten(1) for tensor in (weight, a, b))
        mixed = torch.addmm(weight @ a.t(), b, a @ a.t(), beta=2 * scaling, alpha=scaling**2)
        return (squares + (mixed * b).sum(1)).clamp(min=0).sqrt()
