"""The variants of LoRA by name: what wraps which kind of module."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from loradet.adapters.layer import AdapterLayer
from loradet.adapters.lora_attention import LoRAMultiheadAttention
from loradet.adapters.lora_layers import LoRAConv2d, LoRALinear
from loradet.adapters.variants.dora import DoRAConv2d, DoRALinear
from loradet.adapters.variants.pissa import PiSSAConv2d, PiSSALinear
from loradet.errors import UserError


@dataclass(frozen=True)
class Variant:
    """A way to adapt layers.

    Attributes:
        name: for people.
        kinds: which adapter layer wraps which kind of module.
        options: of `AdapterLayer.from_base`.
    """

    name: str
    kinds: dict[type[nn.Module], type[AdapterLayer]]
    options: dict[str, Any] = field(default_factory=dict)


_LORA: dict[type[nn.Module], type[AdapterLayer]] = {
    nn.Linear: LoRALinear,
    nn.Conv2d: LoRAConv2d,
    nn.MultiheadAttention: LoRAMultiheadAttention,
}
# A further variant is a file beside this one and an entry.
VARIANTS = {
    "lora": Variant("LoRA", _LORA),
    "rslora": Variant("rsLoRA", _LORA, {"rank_stabilized": True}),
    "dora": Variant("DoRA", {nn.Linear: DoRALinear, nn.Conv2d: DoRAConv2d}),
    "pissa": Variant("PiSSA", {nn.Linear: PiSSALinear, nn.Conv2d: PiSSAConv2d}),
}


def variant_of(name: str) -> Variant:
    """The variant of that name. Raises UserError for an unknown one."""
    if name not in VARIANTS:
        raise UserError(f"lora: variant={name!r}; expected one of {', '.join(VARIANTS)}.")
    return VARIANTS[name]
