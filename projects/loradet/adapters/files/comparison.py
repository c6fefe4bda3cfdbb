"""Why an adapter file does not fit a model, in words."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loradet.adapters.layer import is_under, join
from loradet.adapters.recipe import (
    BLOCK_ADAPTERS,
    lora_sizes,
    lora_variants,
    name_of,
    set_alpha,
    set_variant,
    unfrozen_names,
)
from loradet.wording import shorten


def differences(
    info: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    own_info: Mapping[str, Any],
    own_tensors: Mapping[str, Tensor],
    own_frozen: Mapping[str, str | None],
) -> list[str]:
    """Compare a file with a model; one line for each thing that differs, and what would be right.

    Args:
        info, tensors: of the file.
        own_info: "recipes", "pixel_mean" and "pixel_std" of the model.
        own_tensors: the model's tensors that the file should hold.
        own_frozen: fingerprints of the model's tensors that the file does not hold, by path of the adapted module.
    """
    recipes = _recipe_differences(info["recipes"], own_info["recipes"])
    # With another recipe the frozen tensors are other ones, and comparing them says nothing.
    bases = [] if recipes else _base_differences(info, own_info["recipes"], own_frozen)
    if recipes:
        # What is wrong with the LoRA layers has been said; their tensors would drown the rest.
        layers = _lora_layers(info["recipes"]) | _lora_layers(own_info["recipes"])
        tensors = {name: t for name, t in tensors.items() if not _is_under_any(name, layers)}
        own_tensors = {name: t for name, t in own_tensors.items() if not _is_under_any(name, layers)}
    return [
        *recipes,
        *bases,
        *_tensor_differences(info, tensors, own_tensors),
        *_pixel_differences(info, own_info),
    ]


def _is_under_any(name: str, layers: set[str]) -> bool:
    return any(is_under(name, layer) for layer in layers)


def _lora_layers(recipes: Mapping[str, Any]) -> set[str]:
    return {join(path, layer) for path, recipe in recipes.items() for layer in lora_sizes(recipe)}


def _recipe_differences(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    lines = []
    for path in sorted(theirs.keys() | own.keys()):
        where = path or "the model"
        if path not in own:
            lines.append(
                f"{where} is {_summary(theirs[path])} in the file; here it went through neither freeze nor lora"
            )
        elif path not in theirs:
            lines.append(f"{where} is {_summary(own[path])} here; in the file neither freeze nor lora touched it")
        else:
            lines += [f"{where}: {line}" for line in _adaptation_differences(theirs[path], own[path])]
    return lines


def _adaptation_differences(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    lines = []
    there, here = lora_sizes(theirs), lora_sizes(own)
    if there.keys() != here.keys():
        lines.append(
            f"other targets: the file has {_names(theirs, own)} on {len(there)} layers (targets {_targets(theirs)}), "
            f"the model {_names(own, theirs)} on {len(here)} (targets {_targets(own)}); they differ in "
            + shorten(sorted(there.keys() ^ here.keys()))
        )
    both = there.keys() & here.keys()
    variants = {(lora_variants(theirs)[layer], lora_variants(own)[layer]) for layer in both}
    for value, own_value in sorted(pair for pair in variants if pair[0] != pair[1]):
        lines.append(f"variant is {value} in the file, {own_value} in the model; {set_variant(value)}")
    ranks = {(there[layer][0], here[layer][0]) for layer in both}
    for value, own_value in sorted(pair for pair in ranks if pair[0] != pair[1]):
        lines.append(f"rank is {value:g} in the file, {own_value:g} in the model; build it with rank={value:g}")
    kinds = lora_variants(own)
    words = {tuple(set_alpha(kinds[layer], *sizes[layer]) for sizes in (there, here)) for layer in both}
    for (word, value), (_, own_value) in sorted((a.split("="), b.split("=")) for a, b in words if a != b):
        lines.append(f"{word} is {value} in the file, {own_value} in the model; build it with {word}={value}")
    if unfrozen_names(theirs) != unfrozen_names(own):
        lines.append(f"the file's is {_freeze_summary(theirs)}, the model's {_freeze_summary(own)}")
    return lines


def _base_differences(
    info: Mapping[str, Any], own: Mapping[str, Any], own_frozen: Mapping[str, str | None]
) -> list[str]:
    lines = []
    for path, theirs in info["recipes"].items():
        if info["frozen"].get(path) != own_frozen.get(path):
            lines.append(
                f"{path or 'the model'}: other base weights: the adapter was trained on {_base(theirs)}, here is "
                f"{_base(own[path])}. Load that base first (pretrained=True, or train.init_checkpoint), and load the "
                "adapter before casting the model to another precision"
            )
    return lines


def _tensor_differences(
    info: Mapping[str, Any], tensors: Mapping[str, Tensor], own_tensors: Mapping[str, Tensor]
) -> list[str]:
    lines = []
    missing = [name for name in own_tensors if name not in tensors]
    unexpected = [name for name in tensors if name not in own_tensors]
    if missing:
        lines.append(f"the file lacks {len(missing)} tensors that train in the model: {shorten(missing)}")
    if unexpected:
        lines.append(f"the file has {len(unexpected)} tensors that do not train in the model: {shorten(unexpected)}")
    shapes = [
        f"{name} is {tuple(tensors[name].shape)} in the file, {tuple(own.shape)} in the model"
        for name, own in own_tensors.items()
        if name in tensors and tensors[name].shape != own.shape
    ]
    if shapes:
        classes = info.get("classes")
        hint = f"; the file is of {len(classes)} classes ({shorten(classes, 10)})" if classes else ""
        lines.append(f"{len(shapes)} tensors have other shapes: {shorten(shapes, 4)}{hint}")
    return lines


def _pixel_differences(info: Mapping[str, Any], own_info: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in ("pixel_mean", "pixel_std"):
        value, own = info.get(name), own_info[name]
        same = value == own or (value and own and _close(value, own))
        if not same:
            lines.append(f"{name} is {value} in the file, {own} in the model; build it with model.{name}={value}")
    return lines


def _close(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(math.isclose(x, y, rel_tol=1e-5, abs_tol=1e-6) for x, y in zip(a, b))


def _summary(recipe: Mapping[str, Any]) -> str:
    parts = [] if recipe["freeze"] is None else [_freeze_summary(recipe)]
    for entry in recipe["lora"]:
        variant, rank = entry.get("variant", "lora"), entry["rank"]
        sizes = f"targets={entry['targets']}, rank={rank}, {set_alpha(variant, rank, entry['alpha'])}"
        if variant in BLOCK_ADAPTERS:
            parts.append(f"{variant}({sizes})")
        else:
            parts.append(f"lora({sizes})" if variant == "lora" else f"lora({sizes}, variant={variant!r})")
    return " and ".join(parts)


def _names(recipe: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What the layers of a recipe have, or of the other one, where this has none."""
    variants = lora_variants(recipe) or lora_variants(other)
    return " and ".join(dict.fromkeys(map(name_of, variants.values())))


def _freeze_summary(recipe: Mapping[str, Any]) -> str:
    freeze = recipe["freeze"]
    return "not frozen" if freeze is None else f"freeze(unfreeze={freeze['unfreeze']})"


def _targets(recipe: Mapping[str, Any]) -> str:
    return ", ".join(name for entry in recipe["lora"] for name in entry["targets"]) or "none"


def _base(recipe: Mapping[str, Any]) -> str:
    name = recipe["model_name"] or recipe["class"]
    return f"{name} (fingerprint {(recipe['fingerprint'] or 'unknown')[:12]})"
