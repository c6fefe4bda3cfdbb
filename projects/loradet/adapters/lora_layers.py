"""LoRA layers: y = W x + b + (alpha / rank) B A x (Hu et al., "LoRA", arXiv:2106.09685, section 4.1)."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradet.adapters.autocast import autocast_dtype
from loradet.adapters.lean.chain import run_chain
from loradet.adapters.lean.frozen_conv import LeanConv2d
from loradet.adapters.lean.source import is_traced, source_of
from loradet.adapters.lean.stages import ConvStage, LinearStage, Parameters, Stage
from loradet.adapters.lora_layer import (
    LoRALayer,
    cast_for_autocast,
    check_hyperparameters,
    low_rank,
    low_rank_product,
    new_factors,
    refuse_training_while_merged,
)
from loradet.adapters.lowrank_dropout import dropout_conv2d
from loradet.errors import UserError


class OneWeightLoRA(LoRALayer):
    """A LoRA layer with one `weight`, and the factors `lora_a` and `lora_b` beside it."""

    dropout: float
    lora_a: nn.Parameter
    lora_b: nn.Parameter
    weight: Tensor
    _base_weight: Tensor | None
    # What it keeps for backward, see `lora`; a layer that is built by itself does not ask where its input comes from.
    memory: str = "plain"

    def _add_factors(self, rank: int, alpha: float, dropout: float, freeze_base: bool) -> None:
        self._set_hyperparameters(rank, alpha, dropout, freeze_base)
        if freeze_base:
            self.requires_grad_(False)
        self.lora_a, self.lora_b = new_factors(self.weight, *self._factor_shapes(rank))
        # The exact weight while merged; a buffer, so that it follows .to(), but in no state dict.
        self.register_buffer("_base_weight", None, persistent=False)

    def _factor_shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        raise NotImplementedError

    def _low_rank_factors(self) -> tuple[Tensor, Tensor]:
        """A (R', ...) and B (O, R', ...), whose product, scaled, is added to the weight."""
        return self.lora_a, self.lora_b

    def adapter_tensors(self) -> dict[str, Tensor]:
        return {"lora_a": self.lora_a, "lora_b": self.lora_b}

    def adapter_shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        shape_a, shape_b = self._factor_shapes(rank)
        return {"lora_a": shape_a, "lora_b": shape_b}

    def forward(self, x: Tensor) -> Tensor:
        """As of the wrapped class: (..., C) → (..., O), or (N, C, H, W) → (N, O, H', W')."""
        if self.merged:
            refuse_training_while_merged(self.training)
            return super().forward(x)
        y = self._lean_forward(x)
        return self._plain_forward(x) if y is None else y

    def _plain_forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def stages(self, x: Tensor) -> list[tuple[Stage, Parameters]]:
        """This layer on that input as part of a lean chain; empty where only its own forward pass will do."""
        raise NotImplementedError

    def _lean_forward(self, x: Tensor) -> Tensor | None:
        """The output where backward can keep what the input was made from in place of the input, else None."""
        if self.memory == "plain" or not torch.is_grad_enabled() or is_traced() or source_of(x) is None:
            return None
        stages = self.stages(x)
        return run_chain(x, stages, self.memory) if stages else None

    @property
    def _parameters_of_stage(self) -> Parameters:
        return self.weight, self.bias, *self._low_rank_factors()

    def _settings_of_stage(self, x: Tensor) -> dict[str, Any]:
        dropout = self.dropout if self.training else 0.0
        return {"scaling": self.scaling, "dropout": dropout, "dtype": autocast_dtype(x)}

    def delta_weight(self) -> Tensor:
        """What merging adds to `weight`, (alpha / rank) B A; at least float32, without gradient."""
        with torch.no_grad():
            return low_rank_product(*self._low_rank_factors(), self.scaling).view(self.weight.shape)

    @property
    def merged(self) -> bool:
        return self._base_weight is not None

    def merged_state(self) -> dict[str, Tensor]:
        if self.merged:
            return {"weight": self.weight.detach()}
        with torch.no_grad():
            weight = self.weight.detach()
            # empty_like keeps the memory format, as of channels_last convolutions.
            return {"weight": torch.empty_like(weight).copy_(weight + self.delta_weight())}

    def merge(self) -> None:
        if not self.merged:
            merged = self.merged_state()["weight"]
            self._base_weight = self.weight.data
            self.weight.data = merged

    def unmerge(self) -> None:
        if self._base_weight is not None:
            self.weight.data = self._base_weight
            self._base_weight = None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.merged:
            # What is saved does not depend on merging, so loading it can never add the delta twice.
            destination[prefix + "weight"] = self._base_weight

    def _load_from_state_dict(self, *args: Any) -> None:
        was_merged = self.merged
        self.unmerge()
        super()._load_from_state_dict(*args)
        if was_merged:
            self.merge()

    def extra_repr(self) -> str:
        return self._extra_repr(self.dropout)


class LoRALinear(OneWeightLoRA, nn.Linear):
    """`nn.Linear` with a low-rank delta; state-dict keys `weight`, `bias`, `lora_a` (R, C), `lora_b` (O, R).

    Args:
        in_features: C.
        out_features: O.
        bias: whether there is a bias.
        rank: R, inner size of the delta.
        alpha: the delta is scaled by alpha / rank.
        dropout: probability of dropping an element of the low-rank path's input, in train mode.
        freeze_base: whether `weight` and `bias` are frozen.
        device, dtype: of all parameters.

    Raises:
        ValueError: rank, alpha or dropout is out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        freeze_base: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        check_hyperparameters(rank, alpha, dropout)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self._add_factors(rank, alpha, dropout, freeze_base)

    @classmethod
    def unsupported_reason(cls, module: nn.Module) -> str | None:
        return _foreign_code(module, nn.Linear, ("forward",))

    def _factor_shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (rank, self.in_features), (self.out_features, rank)

    def _plain_forward(self, x: Tensor) -> Tensor:
        x = cast_for_autocast(x)
        x, y = self._base_forward(x)
        dropout = self.dropout if self.training else 0.0
        return y + low_rank(x, *self._low_rank_factors(), scaling=self.scaling, dropout=dropout)

    def stages(self, x: Tensor) -> list[tuple[Stage, Parameters]]:
        return [] if self.merged else [(LinearStage(**self._settings_of_stage(x)), self._parameters_of_stage)]

    def _base_forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The input to go on with, and W x + b."""
        if x.is_contiguous() or x.dim() <= 2 or not self.weight.requires_grad:
            return x, F.linear(x, self.weight, self.bias)
        # F.linear would copy such an input, and backward of the training weight would keep the copy: let one copy
        # serve lora_a too. The bias is added apart, as F.linear does it here, so that no bit of the result differs.
        x = x.contiguous()
        y = F.linear(x, self.weight)
        return x, y if self.bias is None else y + self.bias.to(y.dtype)


class LoRAConv2d(OneWeightLoRA, nn.Conv2d):
    """`nn.Conv2d` with a low-rank delta; state-dict keys `weight`, `bias`, `lora_a`, `lora_b`.

    `lora_a` has the base's kernel, stride, padding and dilation and maps to R channels, (R, C, KH, KW); `lora_b`
    is 1×1, (O, R, 1, 1). Of a depthwise convolution the (O, KH·KW) weight gets the low-rank delta: `lora_a` is
    (R, 1, KH, KW), R kernels that every channel shares, and `lora_b` weighs them for each output channel.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as of
            `nn.Conv2d`; `groups` is 1 or `in_channels`.
        rank: R, inner size of the delta.
        alpha: the delta is scaled by alpha / rank.
        dropout: probability of dropping an element of the low-rank path's input, in train mode.
        freeze_base: whether `weight` and `bias` are frozen.
        device, dtype: of all parameters.

    Raises:
        ValueError: rank, alpha or dropout is out of range, or `groups` is neither 1 nor `in_channels`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        freeze_base: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        check_hyperparameters(rank, alpha, dropout)
        if reason := _grouping_objection(in_channels, groups):
            raise UserError(f"LoRAConv2d: {reason}.")
        shape: dict[str, Any] = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "bias": bias,
            "padding_mode": padding_mode,
        }
        super().__init__(in_channels, out_channels, **shape, device=device, dtype=dtype)
        self._add_factors(rank, alpha, dropout, freeze_base)

    @classmethod
    def unsupported_reason(cls, module: nn.Module) -> str | None:
        if reason := _foreign_code(module, nn.Conv2d, ("forward", "_conv_forward")):
            return reason
        conv = cast(nn.Conv2d, module)
        return _grouping_objection(conv.in_channels, conv.groups)

    @property
    def depthwise(self) -> bool:
        """Whether each group is one input channel."""
        return self.groups > 1

    def geometry(self) -> dict[str, Any]:
        usual = {"groups": 1, "dilation": (1, 1), "padding_mode": "zeros"}
        return {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}

    def _factor_shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (rank, *self.weight.shape[1:]), (self.out_channels, rank, 1, 1)

    def _plain_forward(self, x: Tensor) -> Tensor:
        x, padding = self._explicit_padding(x)
        x = cast_for_autocast(x)
        geometry = (self.stride, padding, self.dilation, self.groups)
        y = F.conv2d(x, self.weight, self.bias, *geometry)
        a, b = self._low_rank_factors()
        if self.depthwise:
            # The product of the factors is as small as the kernel; convolving with it keeps no activation besides x.
            delta = (b.flatten(1) @ a.flatten(1)).view(self.weight.shape)
            return y + self._convolve(x, delta * self.scaling, geometry)
        return y + F.conv2d(self._convolve(x, a, geometry) * self.scaling, b)

    def stages(self, x: Tensor) -> list[tuple[Stage, Parameters]]:
        implicit = self.padding_mode == "zeros" and isinstance(self.padding, tuple)
        if self.merged or self.depthwise or not implicit or x.dim() != 4:
            return []
        geometry = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return [(ConvStage(**self._settings_of_stage(x), **geometry), self._parameters_of_stage)]

    def _convolve(self, x: Tensor, weight: Tensor, geometry: tuple) -> Tensor:
        if self.dropout and self.training:
            return dropout_conv2d(x, weight, self.dropout, *geometry)
        return F.conv2d(x, weight, None, *geometry)

    def _explicit_padding(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Input and padding in numbers; the input is padded here, once for both paths, where numbers cannot say it."""
        left, right, top, bottom = self._reversed_padding_repeated_twice
        if self.padding_mode != "zeros":
            return F.pad(x, (left, right, top, bottom), mode=self.padding_mode), (0, 0)
        if left != right or top != bottom:  # "same" with an even kernel
            return F.pad(x, (left, right, top, bottom)), (0, 0)
        return x, (top, left)


def _foreign_code(module: nn.Module, kind: type[nn.Module], methods: tuple[str, ...]) -> str | None:
    own = (kind, LeanConv2d)  # what another call of `lora` has made of a frozen convolution is torch's own
    if not any(all(getattr(type(module), m) is getattr(known, m, None) for m in methods) for known in own):
        return f"it is a subclass of {kind.__name__} with a forward pass of its own, which wrapping would skip"
    if "weight" not in module._parameters:
        return "its weight is computed by a parametrization; remove that first"
    return None


def _grouping_objection(in_channels: int, groups: int) -> str | None:
    if groups in (1, in_channels):
        return None
    return f"groups={groups} with {in_channels} input channels; LoRA takes groups=1 or depthwise ({in_channels})"
