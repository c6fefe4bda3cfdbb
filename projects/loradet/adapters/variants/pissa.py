"""PiSSA: the low-rank path begins as the weight's principal part (Meng et al., "PiSSA", arXiv:2404.02948).

The paper takes that part out of the weight. Here the weight keeps its value, and the part that the path began with is
taken off its output: y = W x + b + s (B A - B0 A0) x, the same function of A and B. So base checkpoints load before and
after, the base of an adapter file is the plain one, and step 0 is the base.
"""

from typing import Any

import torch
from torch import Tensor

from loradet.adapters.lora_layers import LoRAConv2d, LoRALinear, OneWeightLoRA


class _PiSSA(OneWeightLoRA):
    """A LoRA layer that begins with principal factors, which the buffers `lora_a_start` and `lora_b_start` keep."""

    lora_a_start: Tensor
    lora_b_start: Tensor

    def _add_factors(self, rank: int, alpha: float, dropout: float, freeze_base: bool) -> None:
        super()._add_factors(rank, alpha, dropout, freeze_base)
        for name in ("lora_a", "lora_b"):
            self.register_buffer(f"{name}_start", torch.empty_like(getattr(self, name).data))
        self._begin_with_principal_part()

    def _begin_with_principal_part(self) -> None:
        with torch.no_grad():
            a, b = principal_factors(self.weight, self.rank, self.scaling)
            for name, value in (("lora_a", a), ("lora_b", b)):
                getattr(self, name).data.copy_(value.view(getattr(self, name).shape))
                getattr(self, f"{name}_start").copy_(getattr(self, name))

    def _low_rank_factors(self) -> tuple[Tensor, Tensor]:
        return torch.cat([self.lora_a, self.lora_a_start]), torch.cat([self.lora_b, -self.lora_b_start], dim=1)

    def adapter_tensors(self) -> dict[str, Tensor]:
        starts = {"lora_a_start": self.lora_a_start, "lora_b_start": self.lora_b_start}
        return {**super().adapter_tensors(), **starts}

    def adapter_shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        shapes = super().adapter_shapes(rank)
        return {**shapes, **{f"{name}_start": shape for name, shape in shapes.items()}}

    @property
    def is_base(self) -> bool:
        return torch.equal(self.lora_a, self.lora_a_start) and torch.equal(self.lora_b, self.lora_b_start)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if f"{prefix}weight" in state_dict and f"{prefix}lora_a" not in state_dict and not self.merged:
            self._begin_with_principal_part()  # of a base that comes after the wrapping


class PiSSALinear(_PiSSA, LoRALinear):
    """`nn.Linear` with PiSSA; `lora_a_start` (R, C) and `lora_b_start` (O, R) come besides LoRA's keys."""


class PiSSAConv2d(_PiSSA, LoRAConv2d):
    """`nn.Conv2d` with PiSSA, of the weight as a matrix (O, C / groups · KH · KW)."""


def principal_factors(weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """A (R, C) and B (O, R): scaling · B A is the best of rank R to a weight; what it has no rank for is zero."""
    matrix = weight.detach().flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = (s[:rank] / scaling).sqrt()
    a, b = root[:, None] * v[:rank], u[:, :rank] * root
    missing = rank - root.numel()
    return torch.nn.functional.pad(a, (0, 0, 0, missing)), torch.nn.functional.pad(b, (0, missing))
