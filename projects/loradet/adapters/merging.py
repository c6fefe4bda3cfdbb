"""`merge` and `unmerge`: the delta as part of the weights, for inference without the low-rank path."""

from typing import Any

from torch import nn

from loradet.adapters.layer import AdapterLayer, adapter_layers, adapter_tensor_names, join, unwrap
from loradet.errors import UserError


def merge(model: nn.Module) -> nn.Module:
    """Add every delta of a model to its weights, in place; layers that are merged stay as they are.

    Outputs agree with those before to rounding. `state_dict()` stays what it was before merging;
    `merged_state_dict` gives the sum. Training a merged model is an error.

    Returns:
        The model itself.

    Raises:
        ValueError: the model has no adapter layer.
    """
    for layer in _layers(model, "merge"):
        layer.merge()
    return model


def unmerge(model: nn.Module) -> nn.Module:
    """Restore the base weights bit for bit, in place; layers that are not merged stay as they are.

    Returns:
        The model itself.

    Raises:
        ValueError: the model has no adapter layer.
    """
    for layer in _layers(model, "unmerge"):
        layer.unmerge()
    return model


def merged_state_dict(model: nn.Module) -> dict[str, Any]:
    """A state dict in the layout of the base, without LoRA tensors, whose weights include the deltas.

    The model may be merged or not, and stays so.
    """
    model = unwrap(model)
    deltas = adapter_tensor_names(model)
    state = {name: value for name, value in model.state_dict().items() if name not in deltas}
    for path, layer in adapter_layers(model):
        state.update({join(path, name): value for name, value in layer.merged_state().items()})
    return state


def _layers(model: nn.Module, action: str) -> list[AdapterLayer]:
    layers = [layer for _, layer in adapter_layers(unwrap(model))]
    if not layers:
        raise UserError(f"{action}: {type(model).__name__} has no LoRA layer; call `lora` on it first.")
    return layers
