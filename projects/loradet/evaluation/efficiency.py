"""What a detector costs: parameters and floating point operations, by part."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from loradet.adapters import ParameterTable, parameter_table
from loradet.adapters.parameters import backbone_path

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore compiles a loss by torch.jit when it is imported
    from detectron2.utils.analysis import FlopCountAnalysis

CONVENTION = (
    "One multiply-add is one FLOP, as fvcore counts: convolutions, matrix products and attention, and a few per "
    "element of normalisations and of resized or pooled maps. Other elementwise operations, sorting and NMS are free."
)
# Elementwise operations, copies and indexing that fvcore would list as unknown, besides those that Detectron2's
# analysis leaves out itself.
_FREE = ("aten::addcmul", "aten::all", "aten::clone", "aten::pad", "aten::unflatten")


@dataclass(frozen=True)
class ModelStatistics:
    """Parameters and operations of a detector.

    Attributes:
        parameters: by part.
        input_size: (height, width) in pixels that operations are counted at, for one image.
        flops: operations by part ("backbone", "neck", "head").
        flops_by_operator: the same by kind of operation.
        uncounted: how often operations ran that nothing is known of: none of them is in `flops`.
    """

    parameters: ParameterTable
    input_size: tuple[int, int]
    flops: dict[str, int]
    flops_by_operator: dict[str, int]
    uncounted: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        total = sum(self.flops.values())
        return {
            "input_size": list(self.input_size),
            "parameters": self.parameters.to_dict(),
            "flops": {**self.flops, "all": total},
            "flops_by_operator": self.flops_by_operator,
            "uncounted_operators": self.uncounted,
            "convention": CONVENTION,
        }

    def __str__(self) -> str:
        counts = self.parameters.to_dict()
        flops = {**self.flops, "all": sum(self.flops.values())}
        lines = [f"{'part':<10}{'trainable (M)':>15}{'total (M)':>12}{'GFLOPs':>12}"]
        for name, count in counts.items():
            lines.append(
                f"{name:<10}{count['trainable'] / 1e6:>15.3f}{count['total'] / 1e6:>12.3f}{flops[name] / 1e9:>12.3f}"
            )
        height, width = self.input_size
        lines += ["", f"One image of {height}x{width} pixels (height x width). {CONVENTION}"]
        if self.uncounted:
            listed = ", ".join(f"{name} ({count} times)" for name, count in self.uncounted.items())
            lines.append(f"Not counted, for want of a rule: {listed}.")
        return "\n".join(lines)


def model_statistics(model: nn.Module, input_size: tuple[int, int], *, channels: int = 3) -> ModelStatistics:
    """Count a detector's parameters, and its operations in inference on one image of random pixels.

    LoRA layers that are not merged count with their low-rank path; merged ones cost what their base costs.

    Args:
        model: takes Detectron2's list of dicts; its mode is restored.
        input_size: (height, width) in pixels, before the model pads it.
        channels: of the image.
    """
    device = next(model.parameters()).device
    image = torch.rand(channels, *input_size, generator=torch.Generator().manual_seed(0)) * 255
    was_training, fused = model.training, torch.backends.mha.get_fastpath_enabled()
    model.eval()
    # Transformer layers would run as one operation that nothing counts.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            analysis = FlopCountAnalysis(model, [{"image": image.to(device)}])
            analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
            analysis.set_op_handle(**dict.fromkeys(_FREE))
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            by_module, by_operator = analysis.by_module(), analysis.by_operator()
            uncounted = analysis.unsupported_ops()
    finally:
        model.train(was_training)
        torch.backends.mha.set_fastpath_enabled(fused)
    parts = _by_part(by_module, backbone_path(model))
    return ModelStatistics(
        parameter_table(model),
        (int(input_size[0]), int(input_size[1])),
        parts,
        {name: int(count) for name, count in sorted(by_operator.items()) if count},
        dict(sorted(uncounted.items())),
    )


def _by_part(by_module: Mapping[str, int], backbone: str) -> dict[str, int]:
    """Operations by part, split as `parameter_table` splits parameters."""
    # The analysis wraps the model in a module, as its attribute `model`.
    total, with_neck, alone = (by_module.get(name, 0) for name in ("", "model.backbone", f"model.{backbone}"))
    return {"backbone": int(alone), "neck": int(with_neck - alone), "head": int(total - with_neck)}


def _attention_flops(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Of softmax(Q K^T) V, both products: Q is (..., L, E), K (..., S, E), the result (..., L, V)."""
    query, key, result = inputs[0].type().sizes(), inputs[1].type().sizes(), outputs[0].type().sizes()
    return math.prod(query) * key[-2] + math.prod(result) * key[-2]
