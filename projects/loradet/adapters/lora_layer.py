"""What all LoRA layers share: hyperparameters, and the low-rank map in its two forms."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradet.adapters.autocast import autocast_dtype
from loradet.adapters.layer import AdapterLayer
from loradet.adapters.lowrank_dropout import dropout_linear
from loradet.errors import UserError


class LoRALayer(AdapterLayer):
    """A wrapped module with low-rank deltas, whose names end in `lora_a` and `lora_b`."""

    # The delta is scaled by alpha / √rank: rsLoRA (Kalajdzievski, arXiv:2312.03732).
    rank_stabilized: bool = False

    @classmethod
    def from_base(
        cls,
        module: nn.Module,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        freeze_base: bool = True,
        rank_stabilized: bool = False,
    ) -> "LoRALayer":
        """Turn `module` into a LoRA layer in place: same object, same parameters, hooks and mode.

        Args:
            module: of exactly the wrapped kind; see `unsupported_reason`.
            rank: inner size of the delta.
            alpha: the delta is scaled by alpha / rank.
            dropout: probability of dropping an element of the low-rank path's input, in train mode.
            freeze_base: whether the module's own parameters stop training.
            rank_stabilized: the delta is scaled by alpha / √rank instead.

        Raises:
            ValueError: rank, alpha or dropout is out of range, or the module cannot be wrapped.
        """
        check_hyperparameters(rank, alpha, dropout)
        if reason := cls.unsupported_reason(module):
            raise UserError(f"LoRA cannot wrap this {type(module).__name__}: {reason}.")
        module.__class__ = cls
        if rank_stabilized:
            module.rank_stabilized = True
        module._add_factors(rank, alpha, dropout, freeze_base)
        return module

    def _add_factors(self, rank: int, alpha: float, dropout: float, freeze_base: bool) -> None:
        raise NotImplementedError

    def _set_hyperparameters(self, rank: int, alpha: float, dropout: float, freeze_base: bool) -> None:
        self.rank, self.alpha, self.dropout, self.freeze_base = rank, float(alpha), float(dropout), freeze_base

    @property
    def scaling(self) -> float:
        """alpha / rank, or alpha / √rank where that is asked for."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def replace_adapter(
        self, tensors: Mapping[str, Tensor], *, rank: int, alpha: float, dropout: float, freeze_base: bool
    ) -> None:
        self._set_hyperparameters(rank, alpha, dropout, freeze_base)
        for name, parameter in self.adapter_tensors().items():
            if tensors[name].shape == parameter.shape:
                parameter.data.copy_(tensors[name])
            else:  # the parameter stays the same object, whoever holds it
                parameter.grad = None
                parameter.data = tensors[name].to(parameter.data, copy=True)

    @property
    def is_base(self) -> bool:
        return not any(t.any() for name, t in self.adapter_tensors().items() if name.endswith("lora_b"))

    def _extra_repr(self, dropout: float) -> str:
        parts = [super().extra_repr(), f"rank={self.rank}, alpha={self.alpha:g}"]
        parts += [f"dropout={dropout:g}"] if dropout else []
        return ", ".join(filter(None, [*parts, "merged" if self.merged else ""]))


def refuse_training_while_merged(training: bool) -> None:
    """Raise RuntimeError where a merged layer's forward pass would be one of training."""
    if training and torch.is_grad_enabled():
        raise RuntimeError(
            "This model is merged: its LoRA tensors take no part in the forward pass and would not train. "
            "Call loradet.adapters.unmerge(model) before training, or model.eval() for inference."
        )


def new_factors(
    weight: Tensor, shape_a: tuple[int, ...], shape_b: tuple[int, ...]
) -> tuple[nn.Parameter, nn.Parameter]:
    """A Kaiming-uniform with a=√5 and B zero, of the weight's device, and of its dtype where that is a float."""
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    a = nn.Parameter(torch.empty(shape_a, dtype=dtype, device=weight.device))
    b = nn.Parameter(torch.zeros(shape_b, dtype=dtype, device=weight.device))
    nn.init.kaiming_uniform_(a, a=math.sqrt(5))
    return a, b


def low_rank(x: Tensor, a: Tensor, b: Tensor, *, scaling: float, dropout: float) -> Tensor:
    """scaling · B A drop(x): (..., C) → (..., O), for A (R, C) and B (O, R)."""
    hidden = dropout_linear(x, a, dropout) if dropout else F.linear(x, a)
    return F.linear(hidden * scaling, b)


def low_rank_product(a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """scaling · B A as a matrix (O, ...), at least float32 also under autocast; all but the first axis are flat."""
    dtype = torch.promote_types(b.dtype, torch.float32)
    with torch.autocast(b.device.type, enabled=False):
        return (b.to(dtype).flatten(1) @ a.to(dtype).flatten(1)) * scaling


def check_hyperparameters(rank: int, alpha: float, dropout: float) -> None:
    """Raise ValueError for a rank that is no whole number ≥ 1, an alpha ≤ 0 or a dropout outside [0, 1)."""
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise UserError(f"LoRA: rank={rank!r}; expected a whole number of at least 1, for example rank=16.")
    if not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise UserError(f"LoRA: alpha={alpha!r}; expected a number above 0, for example alpha={2.0 * rank}.")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"LoRA: dropout={dropout!r}; expected a probability in [0, 1), 0.0 for none.")


def cast_for_autocast(x: Tensor) -> Tensor:
    """The input as autocast's linear maps would cast it; unchanged without autocast."""
    # Autocast would cast the input once for the base and once more for lora_a, and backward would keep both.
    dtype = autocast_dtype(x)
    return x if dtype is None else x.to(dtype)
