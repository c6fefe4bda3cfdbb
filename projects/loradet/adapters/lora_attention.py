"""LoRA of `nn.MultiheadAttention`: deltas of its query, key, value and output projections."""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from loradet.adapters.attention import additive_mask, attend
from loradet.adapters.lora_layer import (
    LoRALayer,
    cast_for_autocast,
    check_hyperparameters,
    low_rank,
    low_rank_product,
    new_factors,
    refuse_training_while_merged,
)
from loradet.adapters.summed_weights import SummedWeights, summed_weight
from loradet.errors import UserError

_PARTS = ("q", "k", "v")
_SEPARATE = {"q_proj_weight": "q", "k_proj_weight": "k", "v_proj_weight": "v"}


class _OutputProjection(SummedWeights, NonDynamicallyQuantizableLinear):
    """`out_proj` of a LoRA attention, whose `weight` reads as the sum; `scaling` is set by the attention."""

    weight = summed_weight("weight")
    lora_a: nn.Parameter
    lora_b: nn.Parameter
    scaling: float

    def _delta(self, name: str) -> Tensor:  # noqa: ARG002
        return low_rank_product(self.lora_a, self.lora_b, self.scaling)


class LoRAMultiheadAttention(SummedWeights, LoRALayer, nn.MultiheadAttention):
    """`nn.MultiheadAttention` with a low-rank delta on each of its four projections.

    Each projection is y = W x + b + (alpha / rank) B A x (Hu et al., arXiv:2106.09685, section 4.1), of W's own rows
    where the three are one `in_proj_weight`. Keys of the base stay; `q_lora_a` (R, C), `q_lora_b` (C, R), the same for
    k and v (A is (R, kdim) and (R, vdim)), `out_proj.lora_a` and `out_proj.lora_b` come besides.

    With gradients the low-rank path runs on activations: it costs 2·R·C a token and a projection, while a sum W + B A
    would cost backward a whole weight gradient (C² a token). Without gradients the sum is cheaper, and torch's own
    forward pass runs on it, its fast path too. Whoever reads `in_proj_weight` or `out_proj.weight`, as the fast paths
    of `nn.TransformerEncoderLayer` and `nn.TransformerEncoder` do, reads the sum.

    In a module frozen by `freeze` dropout of attention weights is off, as all dropout there; that of LoRA is not.

    Args:
        embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first: as of
            `nn.MultiheadAttention`; `dropout` is that of attention weights.
        rank: R, inner size of the deltas.
        alpha: the deltas are scaled by alpha / rank.
        lora_dropout: probability of dropping an element of a low-rank path's input, in train mode.
        freeze_base: whether all but the deltas is frozen.
        device, dtype: of all parameters.

    Raises:
        ValueError: rank, alpha or dropout is out of range.
    """

    in_proj_weight = summed_weight("in_proj_weight")
    q_proj_weight = summed_weight("q_proj_weight")
    k_proj_weight = summed_weight("k_proj_weight")
    v_proj_weight = summed_weight("v_proj_weight")
    out_proj: _OutputProjection

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        rank: int,
        alpha: float,
        lora_dropout: float = 0.0,
        freeze_base: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        check_hyperparameters(rank, alpha, lora_dropout)
        options = (dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first)
        super().__init__(embed_dim, num_heads, *options, device=device, dtype=dtype)
        self._add_factors(rank, alpha, lora_dropout, freeze_base)

    @classmethod
    def unsupported_reason(cls, module: nn.Module) -> str | None:
        if type(module).forward is not nn.MultiheadAttention.forward:
            return "it is a subclass of MultiheadAttention with a forward pass of its own, which wrapping would skip"
        if type(module.out_proj) not in (NonDynamicallyQuantizableLinear, nn.Linear):
            return f"its out_proj is a {type(module.out_proj).__name__}, not the linear layer that torch makes"
        if not {"in_proj_weight", *_SEPARATE} <= module._parameters.keys():
            return "a weight of it is computed by a parametrization; remove that first"
        return None

    def _add_factors(self, rank: int, alpha: float, dropout: float, freeze_base: bool) -> None:
        self.out_proj.__class__ = _OutputProjection
        self.lora_dropout = nn.Dropout().train(self.training)
        self._set_hyperparameters(rank, alpha, dropout, freeze_base)
        if freeze_base:
            self.requires_grad_(False)
        shapes, weight = self.adapter_shapes(rank), cast(Tensor, self.out_proj._parameters["weight"])
        for part in _PARTS:
            a, b = new_factors(weight, shapes[f"{part}_lora_a"], shapes[f"{part}_lora_b"])
            self.register_parameter(f"{part}_lora_a", a)
            self.register_parameter(f"{part}_lora_b", b)
        out = self.out_proj
        out.lora_a, out.lora_b = new_factors(weight, shapes["out_proj.lora_a"], shapes["out_proj.lora_b"])
        self._begin_sums([n for n in ("in_proj_weight", *_SEPARATE) if self._parameters[n] is not None])
        out._begin_sums(["weight"])

    def _set_hyperparameters(self, rank: int, alpha: float, dropout: float, freeze_base: bool) -> None:
        # `dropout` of this class is that of attention weights.
        self.rank, self.alpha, self.freeze_base = rank, float(alpha), freeze_base
        self.lora_dropout.p = float(dropout)
        self.out_proj.scaling = self.scaling

    def adapter_tensors(self) -> dict[str, nn.Parameter]:
        own = {f"{part}_lora_{factor}": getattr(self, f"{part}_lora_{factor}") for part in _PARTS for factor in "ab"}
        return {**own, "out_proj.lora_a": self.out_proj.lora_a, "out_proj.lora_b": self.out_proj.lora_b}

    def adapter_shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        inputs = {"q_": self.embed_dim, "k_": self.kdim, "v_": self.vdim, "out_proj.": self.embed_dim}
        shapes: dict[str, tuple[int, ...]] = {}
        for part, features in inputs.items():
            shapes.update({f"{part}lora_a": (rank, features), f"{part}lora_b": (self.embed_dim, rank)})
        return shapes

    def _delta(self, name: str) -> Tensor:
        parts = _PARTS if name == "in_proj_weight" else (_SEPARATE[name],)
        return torch.cat([low_rank_product(*self._factors(part), self.scaling) for part in parts])

    def _factors(self, part: str) -> tuple[Tensor, Tensor]:
        return getattr(self, f"{part}_lora_a"), getattr(self, f"{part}_lora_b")

    def train_adapter(self) -> None:
        self.lora_dropout.train()

    def merged_state(self) -> dict[str, Tensor]:
        return {**super().merged_state(), "out_proj.weight": self.out_proj.merged_state()["weight"]}

    def merge(self) -> None:
        super().merge()
        self.out_proj.merge()

    def unmerge(self) -> None:
        super().unmerge()
        self.out_proj.unmerge()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As of `nn.MultiheadAttention`, in arguments, shapes and results."""
        if self.merged:
            refuse_training_while_merged(self.lora_dropout.training)
        if self.merged or query.is_nested or not (torch.is_grad_enabled() or self._dropout):
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        if is_causal and attn_mask is None:
            raise UserError("is_causal is a hint about attn_mask; give attn_mask too.")
        batched = query.dim() == 3
        self._check_inputs(query, key, value)
        length, keys = self._sequence_first(query), self._sequence_first(key)
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        # As torch does it: the hint replaces the mask where nothing else needs it.
        is_causal = is_causal and key_padding_mask is None and not need_weights
        masks = (key_padding_mask, None if is_causal else attn_mask)
        mask = additive_mask(*masks, query=length, key=keys, heads=self.num_heads)
        q, k, v = self._project(*_once_each(cast_for_autocast, query, key, value))
        k, v, mask = self._with_extra_keys(k, v, mask)
        dropout = self.dropout if self.training else 0.0
        options = {"heads": self.num_heads, "mask": mask, "is_causal": is_causal, "dropout": dropout}
        output, weights = attend(q, k, v, **options, need_weights=need_weights)
        output = self._project_out(output)
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return output.squeeze(1), None if weights is None else weights.squeeze(0)
        return output.transpose(0, 1) if self.batch_first else output, weights

    @property
    def _dropout(self) -> float:
        """Of the low-rank paths' inputs, at present."""
        return self.lora_dropout.p if self.lora_dropout.training else 0.0

    def _check_inputs(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        shapes = [tuple(x.shape) for x in (query, key, value)]
        batch = slice(0, 1) if self.batch_first else slice(1, 2)
        right = query.dim() in (2, 3) and query.dim() == key.dim() and key.shape[:-1] == value.shape[:-1]
        if not right or (query.dim() == 3 and query.shape[batch] != key.shape[batch]):
            order = "(N, length, channels)" if self.batch_first else "(length, N, channels)"
            raise UserError(
                f"query, key and value are {shapes[0]}, {shapes[1]}, {shapes[2]}; expected {order} or (length, "
                "channels), one N, and one length of key and value."
            )

    def _sequence_first(self, x: Tensor) -> Tensor:
        """(L, N, C) of an input in the caller's layout."""
        if x.dim() == 2:
            return x.unsqueeze(1)
        return x.transpose(0, 1) if self.batch_first else x

    def _project(self, *inputs: Tensor) -> Iterator[Tensor]:
        """Queries (L, N, C), keys and values (S, N, C)."""
        base_inputs = _once_each(self._sequence_first, *inputs)
        if inputs[0].dim() == 2:  # torch makes three tensors of what was one
            base_inputs = [self._sequence_first(x) for x in inputs]
        scaling, dropout = self.scaling, self._dropout
        for part, x, y in zip(_PARTS, inputs, self._base_projections(*base_inputs)):
            # In the caller's layout, where `x` is contiguous: no copy of it is made and kept for each part.
            yield y + self._sequence_first(low_rank(x, *self._factors(part), scaling=scaling, dropout=dropout))

    def _base_projections(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        # Products are cut as torch cuts them, so that step 0 is the base bit for bit.
        weight, bias, width = self._parameters["in_proj_weight"], self.in_proj_bias, self.embed_dim
        if weight is None:
            weights = [cast(Tensor, self._parameters[name]) for name in _SEPARATE]
            biases: Sequence[Tensor | None] = (None, None, None) if bias is None else bias.chunk(3)
            return tuple(map(F.linear, (query, key, value), weights, biases))
        if query is key and key is value:
            return F.linear(query, weight, bias).chunk(3, dim=-1)
        sizes = (width, 2 * width) if key is value else (width, width, width)
        biases = (None,) * len(sizes) if bias is None else bias.split(sizes)
        first, *rest = map(F.linear, (query, key, value), weight.split(sizes), biases)
        return (first, *(rest[0].chunk(2, dim=-1) if key is value else rest))

    def _with_extra_keys(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values with those of add_bias_kv and add_zero_attn, which no mask hides."""
        given, shape = k.shape[0], (1, *k.shape[1:])
        if self.bias_k is not None and self.bias_v is not None:
            k, v = torch.cat([k, self.bias_k.expand(shape)]), torch.cat([v, self.bias_v.expand(shape)])
        if self.add_zero_attn:
            k, v = torch.cat([k, k.new_zeros(shape)]), torch.cat([v, v.new_zeros(shape)])
        extra = k.shape[0] - given
        return k, v, mask if mask is None or not extra else F.pad(mask, (0, extra))

    def _project_out(self, x: Tensor) -> Tensor:
        out, flat = self.out_proj, x.flatten(0, 1)
        y = F.linear(flat, cast(Tensor, out._parameters["weight"]), out.bias)
        y = y + low_rank(flat, out.lora_a, out.lora_b, scaling=self.scaling, dropout=self._dropout)
        return y.unflatten(0, x.shape[:2])

    def extra_repr(self) -> str:
        return self._extra_repr(self.lora_dropout.p)


def _once_each(function: Callable[[Tensor], Tensor], *tensors: Tensor) -> list[Tensor]:
    """The function of each tensor; what was one object stays one object."""
    results: list[Tensor] = []
    for position, tensor in enumerate(tensors):
        before = next((i for i in range(position) if tensors[i] is tensor), None)
        results.append(function(tensor) if before is None else results[before])
    return results
