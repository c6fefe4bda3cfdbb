"""`merge` and `unmerge`: the delta as part of the weights, for inference without the low-rank path."""

from typing import Any

from torch import nn

from loradet.adapters.layer import AdapterLayer, adapter_layers, join, unwrap
from loradet.errors import UserError


def merge(model: nn.Module) -> nn.Module:
    """Add every delta of a model to its weights, in place; layers that are merged stay as they are.

    Outputs agree with those before to rounding. `state_dict()` stays what it was before merging;
    `merged_state_dict` gives the sum. Training a merged model is an error.

    Returns:
        The model itself.

    Raises:
        ValueError: the model has no adapter layer, or one that cannot be merged (Mona, AdaptFormer). Nothing has been
            changed then.
    """
    refuse_unmergeable(model, "merge")
    for layer in _layers(model, "merge"):
        layer.merge()
    return model


def unmerge(model: nn.Module) -> nn.Module:
    """Restore the base weights bit for bit, in place; layers that are not merged stay as they are.

    Returns:
        The model itself.

    Raises:
        ValueError: the model has no adapter layer, or none that can be merged.
    """
    layers = _layers(model, "unmerge")
    if all(layer.unmergeable for layer in layers):
        refuse_unmergeable(model, "unmerge")
    for layer in layers:
        layer.unmerge()
    return model


def merged_state_dict(model: nn.Module, *, partly: bool = False) -> dict[str, Any]:
    """A state dict in the layout of the base, without LoRA tensors, whose weights include the deltas.

    The model may be merged or not, and stays so.

    Args:
        partly: keep the tensors of adapters that cannot be merged (Mona, AdaptFormer), for a model that has these.

    Raises:
        ValueError: the model has such adapters, and `partly` is False.
    """
    model = unwrap(model)
    if not partly:
        refuse_unmergeable(model, "merged_state_dict")
    layers = [(path, layer) for path, layer in adapter_layers(model) if not layer.unmergeable]
    deltas = {join(path, name) for path, layer in layers for name in layer.adapter_tensors()}
    state = {name: value for name, value in model.state_dict().items() if name not in deltas}
    for path, layer in layers:
        state.update({join(path, name): value for name, value in layer.merged_state().items()})
    return state


def refuse_unmergeable(model: nn.Module, action: str) -> None:
    """Raise ValueError where a model has adapters that no weight of the base can hold."""
    found = [(path, layer.unmergeable) for path, layer in adapter_layers(unwrap(model)) if layer.unmergeable]
    if found:
        path, name = found[0]
        raise UserError(
            f"{action}: {name} cannot be merged ({path} and {len(found) - 1} more blocks): it computes beside the "
            "base's layers, and no weight of theirs can hold that. Prediction and export run it as it is."
        )


def _layers(model: nn.Module, action: str) -> list[AdapterLayer]:
    layers = [layer for _, layer in adapter_layers(unwrap(model))]
    if not layers:
        raise UserError(f"{action}: {type(model).__name__} has no LoRA layer; call `lora` on it first.")
    return layers
