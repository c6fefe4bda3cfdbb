"""Parameters and floating point operations of a detector, counted by fvcore."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from fvcore.nn import ActivationCountAnalysis as _ActivationCountAnalysis
from fvcore.nn import FlopCountAnalysis as _FlopCountAnalysis
from fvcore.nn import parameter_count, parameter_count_table
from torch import nn

__all__ = [
    "FlopCountAnalysis",
    "activation_count_operators",
    "find_unused_parameters",
    "flop_count_operators",
    "parameter_count",
    "parameter_count_table",
]

# Elementwise operations, copies and reshapes: fvcore counts none of them, and would warn about each.
_ELEMENTWISE = """
    abs add add_ argmax argsort clamp clamp_ constant_pad_nd cumsum div div_ eq exp fill_ ge gelu
    gt le log2 lt masked_fill_ max max_pool2d mean meshgrid min mul mul_ nan_to_num ne neg nonzero_numpy
    pow reciprocal_ relu relu_ rsqrt rsub sigmoid sigmoid_ silu silu_ softmax sort sqrt sub sub_ sum tanh
    topk zeros_like
"""
_UNCOUNTED = [f"aten::{name}" for name in _ELEMENTWISE.split()] + ["torchvision::nms"]


class FlopCountAnalysis(_FlopCountAnalysis):
    """fvcore's analysis for models whose inputs and outputs are not plain tensors.

    Args:
        model: put into eval mode by the caller for the cost of inference.
        inputs: the first argument of the model's `forward` (a list of dicts, say), or a tuple of all of them.
    """

    def __init__(self, model: nn.Module, inputs: Any):
        adapter = _TensorAdapter(model, inputs)
        super().__init__(adapter, adapter.tensors)
        self.set_op_handle(**dict.fromkeys(_UNCOUNTED))


def flop_count_operators(model: nn.Module, inputs: list) -> defaultdict[str, float]:
    """Billions of floating point operations in inference, by kind of operator; a multiply-add is one.

    Batch norms are left out: in inference they fold into the convolutions before them.

    Args:
        model: a detector; its mode is restored.
        inputs: batch, as the model takes it: `[{"image": (C, H, W)}, ...]`.
    """
    counts = _by_operator(FlopCountAnalysis, model, inputs, 1e9)
    counts.pop("batch_norm", None)
    return counts


def activation_count_operators(model: nn.Module, inputs: list, **kwargs: Any) -> defaultdict[str, float]:
    """Millions of output values of convolutions and matrix products in inference, by kind of operator.

    Args:
        model, inputs: as for `flop_count_operators`.
        supported_ops: of fvcore's `activation_count`: more operators to count, with how to count each.

    Raises:
        TypeError: another keyword.
    """
    handles = kwargs.pop("supported_ops", None) or {}
    if kwargs:
        raise TypeError(f"activation_count_operators takes supported_ops, not {', '.join(kwargs)}.")

    def analysis(*arguments: Any) -> _ActivationAnalysis:
        return _ActivationAnalysis(*arguments).set_op_handle(**handles)

    return _by_operator(analysis, model, inputs, 1e6)


def find_unused_parameters(model: nn.Module, inputs: Any) -> list[str]:
    """Names of the parameters that the losses do not depend on; gradients that there were are gone afterwards.

    Args:
        model: in training mode, returns a loss or a dict of losses.
        inputs: the argument of its `forward`, or a tuple of all of them.

    Raises:
        AssertionError: the model is in eval mode.
    """
    assert model.training, "find_unused_parameters takes a model in training mode: call model.train()."
    model.zero_grad(set_to_none=True)
    losses = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    total = sum(losses.values()) if isinstance(losses, dict) else losses
    total.backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    model.zero_grad(set_to_none=True)
    return unused


class _ActivationAnalysis(_ActivationCountAnalysis):
    def __init__(self, model: nn.Module, inputs: Any):
        adapter = _TensorAdapter(model, inputs)
        super().__init__(adapter, adapter.tensors)


def _by_operator(analysis: Callable, model: nn.Module, inputs: list, unit: float) -> defaultdict[str, float]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            counted = analysis(model, inputs).unsupported_ops_warnings(False).by_operator()
    finally:
        model.train(was_training)
    totals: defaultdict[str, float] = defaultdict(float)
    for name, count in counted.items():
        totals[name] += count / unit
    return totals


class _TensorAdapter(nn.Module):
    """A model as a function of tensors: takes those found in its inputs, gives those found in its outputs.

    Tracing takes nothing else. Numbers and strings of the inputs, and objects such as Instances, stay as they
    are.
    """

    def __init__(self, model: nn.Module, inputs: Any):
        super().__init__()
        self.model = model
        self.inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        found: list[torch.Tensor] = []
        _collect(self.inputs, found)
        self.tensors = tuple(found)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        arguments = _replace(self.inputs, iter(tensors))
        outputs: list[torch.Tensor] = []
        _collect(self.model(*arguments), outputs)
        return tuple(outputs)


def _collect(value: Any, found: list[torch.Tensor]) -> None:
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, found)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect(item, found)
    elif hasattr(value, "get_fields"):
        _collect(value.get_fields(), found)
    elif isinstance(getattr(value, "tensor", None), torch.Tensor):
        found.append(value.tensor)


def _replace(value: Any, tensors: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return next(tensors)
    if isinstance(value, dict):
        return {key: _replace(item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replace(item, tensors) for item in value)
    if hasattr(value, "get_fields") or isinstance(getattr(value, "tensor", None), torch.Tensor):
        count: list[torch.Tensor] = []
        _collect(value, count)
        for _ in count:
            next(tensors)
    return value
