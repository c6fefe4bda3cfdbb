"""Modules that are cheap to run again: norms and activations."""

from torch import nn

_ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "SiLU": "silu", "ReLU": "relu"}
_ACTIVATION_FILES = ("torch.nn.modules.activation", "timm.layers.activations")
_NORM_FILES = ("torch.nn.modules.normalization", "timm.layers.norm")


def activation_name(module: nn.Module) -> str | None:
    """The name that `ActivationStage` has for an activation; None for others and for those that work in place."""
    kind = type(module)
    if kind.__module__ not in _ACTIVATION_FILES or getattr(module, "inplace", False):
        return None
    return "gelu_tanh" if getattr(module, "approximate", "none") == "tanh" else _ACTIVATIONS.get(kind.__name__)


def keeps_its_input(module: nn.Module) -> bool:
    """Whether autograd keeps the one input of this norm or activation, so that its output costs nothing to drop."""
    # ReLU keeps its output. Norms of these files have no state that a forward pass changes; batch norms are elsewhere.
    return type(module).__module__ in _NORM_FILES or activation_name(module) not in (None, "relu")
