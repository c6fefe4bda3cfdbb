"""The recipe: what was frozen and wrapped, and on which base, kept on the module as a plain attribute."""

import copy
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loradet.adapters.layer import adapter_tensor_names, join, unwrap
from loradet.errors import UserError

logger = logging.getLogger("loradet.adapters")

RECIPE = "adapter_recipe"
# Variants in a recipe that are functions of their own beside `lora`, and their names.
BLOCK_ADAPTERS = {"mona": "Mona", "adaptformer": "AdaptFormer"}


def ensure_recipe(module: nn.Module) -> dict[str, Any]:
    """The module's recipe; begun, with the fingerprint of its tensors as they are now, where it has none."""
    if not hasattr(module, RECIPE):
        name = getattr(module, "model_name", None)
        recipe: dict[str, Any] = {
            "class": type(module).__name__,
            "model_name": name if isinstance(name, str) else None,
            "fingerprint": fingerprint(base_tensors(module)),
            "freeze": None,
            "lora": [],
        }
        setattr(module, RECIPE, recipe)
        module.register_load_state_dict_pre_hook(_before_load)
        module.register_load_state_dict_post_hook(_after_load)
    return getattr(module, RECIPE)


def recipes(model: nn.Module) -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
    """Dotted path, module and recipe of every module that has one."""
    for path, module in model.named_modules():
        if isinstance(recipe := getattr(module, RECIPE, None), dict):
            yield path, module, recipe


def base_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint of the module would hold without its deltas: parameters and persistent buffers."""
    deltas = adapter_tensor_names(module)
    return {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor) and k not in deltas}


def fingerprint(tensors: Mapping[str, Tensor]) -> str | None:
    """sha256 over name, shape and bytes, sorted by name; None where tensors are on the meta device."""
    if any(tensor.is_meta for tensor in tensors.values()):
        return None
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(json.dumps([name, list(tensors[name].shape)]).encode() + b"\n")
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _before_load(module, state_dict, prefix, *_):
    # A dict without deltas brings a new base; one with them is a checkpoint of training, its base is known.
    brings_base = any(prefix + name in state_dict for name in base_tensors(module))
    brings_deltas = any(prefix + name in state_dict for name in adapter_tensor_names(module))
    module._base_is_loading = brings_base and not brings_deltas


def _after_load(module, _incompatible_keys):
    if module.__dict__.pop("_base_is_loading", False):
        getattr(module, RECIPE)["fingerprint"] = fingerprint(base_tensors(module))


def adapter_state(model: nn.Module) -> dict[str, Any]:
    """Recipes and base fingerprints by module path, as plain JSON-able values, for a checkpoint to carry."""
    return {path: copy.deepcopy(recipe) for path, _, recipe in recipes(unwrap(model))}


def load_adapter_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Take over the base fingerprints of a checkpoint whose weights have just been loaded.

    Where the checkpoint was adapted in another way, what it brought is the base from now on, and its fingerprint is
    taken anew.

    Raises:
        ValueError: the checkpoint's LoRA tensors fit, but were trained with another alpha.
    """
    for path, module, recipe in recipes(unwrap(model)):
        if path not in state:
            continue
        saved = state[path]
        here, there = lora_sizes(recipe), lora_sizes(saved)
        own, theirs = lora_variants(recipe), lora_variants(saved)
        for layer in here.keys() & there.keys():
            if own[layer] != theirs[layer]:
                raise UserError(
                    f"{join(path, layer)}: the checkpoint's LoRA is of variant {theirs[layer]!r}, the model's of "
                    f"{own[layer]!r}: {set_variant(theirs[layer])}, or start from the base."
                )
            if here[layer][0] == there[layer][0] and here[layer][1] != there[layer][1]:
                was, now = (set_alpha(own[layer], *sizes[layer]) for sizes in (there, here))
                raise UserError(
                    f"{join(path, layer)}: the checkpoint's {name_of(own[layer])} was trained with {was}, the "
                    f"model has {now}: set {was}, or start from the base."
                )
        if _what_trains(recipe) == _what_trains(saved):
            recipe["fingerprint"] = saved["fingerprint"]
        else:
            logger.warning("%s: the checkpoint was adapted in another way; its weights are the base now.", path)
            recipe["fingerprint"] = fingerprint(base_tensors(module))


def lora_sizes(recipe: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """Layer path → (rank, alpha) of every layer that a recipe wraps."""
    return {layer: (entry["rank"], entry["alpha"]) for entry in recipe["lora"] for layer in entry["matched"]}


def lora_variants(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Layer path → variant of `lora` of every layer that a recipe wraps."""
    return {layer: entry.get("variant", "lora") for entry in recipe["lora"] for layer in entry["matched"]}


def name_of(variant: str) -> str:
    """What a message calls an adapter of that variant."""
    return BLOCK_ADAPTERS.get(variant, "LoRA")


def set_variant(variant: str) -> str:
    """How a config gets that variant."""
    return f"call {variant} there" if variant in BLOCK_ADAPTERS else f"set variant={variant!r}"


def set_alpha(variant: str, rank: int, alpha: float) -> str:
    """How a config says an alpha: "alpha=32", or of AdaptFormer "scale=0.1"."""
    return f"scale={alpha / rank:g}" if variant in BLOCK_ADAPTERS else f"alpha={alpha:g}"


def unfrozen_names(recipe: Mapping[str, Any]) -> set[str] | None:
    """Paths of modules and parameters that `freeze` left training; None where nothing was frozen."""
    freeze = recipe["freeze"]
    return None if freeze is None else {*freeze["modules"], *freeze["parameters"]}


def _what_trains(recipe: Mapping[str, Any]) -> tuple:
    bases = {layer: entry["freeze_base"] for entry in recipe["lora"] for layer in entry["matched"]}
    ranks = {layer: rank for layer, (rank, _) in lora_sizes(recipe).items()}
    return unfrozen_names(recipe), bases, ranks, lora_variants(recipe)
