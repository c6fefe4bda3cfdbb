"""Human-readable summary of an adapter file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from loradet.adapters.files.adapter_file import read_adapter
from loradet.adapters.parameters import PARTS
from loradet.adapters.recipe import lora_variants, name_of
from loradet.remote import local_path

# What Mona and AdaptFormer call their own modules in a block.
_BLOCK_MODULES = (["mona"], ["mona1"], ["mona2"], ["adaptformer"])


@dataclass(frozen=True)
class AdapterSizes:
    """Bytes of an adapter: the whole file, and its LoRA tensors alone; `str()` in MB of 10^6 bytes.

    Attributes:
        file, lora: bytes; those of Mona and AdaptFormer count as LoRA's.
        name: what the file has, as "LoRA" or "Mona".
    """

    file: int
    lora: int
    name: str = "LoRA"

    def __str__(self) -> str:
        return f"{self.file / 1e6:.2f} MB, {self.name} tensors alone {self.lora / 1e6:.2f} MB"


def adapter_sizes(path: str | os.PathLike) -> AdapterSizes:
    """Sizes of an adapter file. Raises what `read_adapter` raises."""
    return _sizes(path, *read_adapter(path))


def _sizes(path: str | os.PathLike, info: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AdapterSizes:
    lora = [tensor for name, tensor in tensors.items() if _is_delta(name)]
    size = sum(tensor.numel() * tensor.element_size() for tensor in lora)
    return AdapterSizes(local_path(path).stat().st_size, size, _name(info))


def _is_delta(name: str) -> bool:
    parts = name.split(".")
    return "lora_" in parts[-1] or parts[-2:-1] in _BLOCK_MODULES


def _name(info: Mapping[str, Any]) -> str:
    variants = [variant for recipe in info["recipes"].values() for variant in lora_variants(recipe).values()]
    return " and ".join(dict.fromkeys(map(name_of, variants))) or "LoRA"


def describe_adapter(path: str | os.PathLike) -> str:
    """A page of text: size, base, recipe, classes, tensors. Raises what `read_adapter` raises."""
    info, tensors = read_adapter(path)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    deltas = sum(t.numel() for name, t in tensors.items() if _is_delta(name))
    rows = {
        "file": f"{path} ({_sizes(path, info, tensors)})",
        "model": info["model"],
        "written by": ", ".join(f"{name} {version}" for name, version in info["versions"].items()),
        "tensors": f"{len(tensors)}, {numbers / 1e6:.3f} M numbers, {deltas / 1e6:.3f} M of them {_name(info)}",
        "trainable": _parts(info["parameters"]),
        "classes": _classes(info),
        "pixel mean": info.get("pixel_mean"),
        "pixel std": info.get("pixel_std"),
        "intensity": info.get("intensity"),
    }
    for name, value in info["metadata"].items():
        rows[f"metadata {name}"] = value
    if (point := rows.pop("metadata operating_point", None)) is not None:
        rows["scores from"] = _operating_point(point)
    if (licences := rows.pop("metadata base_licences", None)) is not None:
        rows["licences"] = _licences(licences)
    lines = [_row(name, value) for name, value in rows.items() if value is not None]
    for module_path, recipe in info["recipes"].items():
        lines += ["", f"[{module_path or 'the model itself'}]", *(_row(*row) for row in recipe_rows(recipe))]
    return "\n".join(lines)


def recipe_rows(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was frozen and wrapped of a module, and on which base: names and texts."""
    rows = [
        ("base", recipe["model_name"] or recipe["class"]),
        ("fingerprint", str(recipe["fingerprint"])),
    ]
    if recipe["freeze"] is not None:
        unfrozen = [*recipe["freeze"]["modules"], *recipe["freeze"]["parameters"]]
        rows.append(("freeze", f"unfrozen: {', '.join(unfrozen) or 'nothing'}"))
    for entry in recipe["lora"]:
        base = "frozen" if entry["freeze_base"] else "as freeze left it"
        text = (
            f"targets {', '.join(entry['targets'])} ({len(entry['matched'])} layers), rank {entry['rank']}, "
            f"alpha {entry['alpha']:g}, dropout {entry['dropout']:g}, base {base}"
        )
        rows.append((entry.get("variant", "lora"), text))
    return rows


def _parts(parameters: dict[str, dict[str, int]]) -> str:
    ordered = {name: parameters[name] for name in (*PARTS, "all")}
    counts = [f"{name} {c['trainable'] / 1e6:.3f} of {c['total'] / 1e6:.3f} M" for name, c in ordered.items()]
    return ", ".join(counts)


def _classes(info: dict[str, Any]) -> str | None:
    if info["classes"] is None:
        return None
    ids = info["class_ids"] or [None] * len(info["classes"])
    return ", ".join(name if i is None else f"{name} ({i})" for name, i in zip(info["classes"], ids))


def _operating_point(point: Any) -> str:
    """Thresholds by class, as training has chosen them."""
    try:
        wished = point["wished_precision"]
        shown = [f"{one['name']} {one['threshold']:g}" for one in point["classes"] if one["threshold"] is not None]
        rule = "best F1" if wished is None else f"precision {wished:g}"
        return f"{', '.join(shown) or 'nothing'} ({rule} on {point['split']})"
    except (TypeError, KeyError, ValueError):
        return str(point)


def _licences(licences: Any) -> str:
    """Of the base, as training has noted them."""
    try:
        return ", ".join(f"{one['base']}: {one['licence'] or 'not known'}" for one in licences)
    except (TypeError, KeyError):
        return str(licences)


def _row(name: str, value: Any) -> str:
    return f"{name:<12} {value}"
