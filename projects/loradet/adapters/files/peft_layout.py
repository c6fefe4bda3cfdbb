"""LoRA of a backbone in the file layout of Hugging Face's PEFT library, which loads it onto the plain network.

Layout: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from loradet.adapters.files.adapter_file import AdapterError, read_adapter
from loradet.adapters.layer import is_under, join
from loradet.adapters.recipe import BLOCK_ADAPTERS, name_of
from loradet.files import atomic_open, write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Where a detector keeps its backbone, the most precise first: under an FPN, under a SimpleFeaturePyramid, in a DETR,
# without a neck. And where the project's backbones keep timm's network.
_BACKBONES = ("backbone.bottom_up", "backbone.net", "backbone.0", "backbone")
_NETWORK = "net."


@dataclass(frozen=True)
class PeftFolder:
    """What `export_peft` wrote, and what of the adapter it could not."""

    folder: Path
    layers: list[str]
    left_out: list[str]
    left_out_of_backbone: list[str]

    def __str__(self) -> str:
        text = f"{self.folder} (PEFT layout, LoRA of {len(self.layers)} layers)"
        if self.left_out:
            parts = Counter(".".join(name.split(".")[:2]) for name in self.left_out)
            listed = ", ".join(f"{part} {count}" for part, count in parts.items())
            text += f"; it cannot hold the other {len(self.left_out)} trained tensors: {listed}"
        if self.left_out_of_backbone:
            text += "; without those of the backbone its features are not the trained ones"
        return text


def export_peft(path: str | os.PathLike, folder: str | os.PathLike) -> PeftFolder:
    """Write the LoRA tensors of an adapter file's backbone as `adapter_config.json` and `adapter_model.safetensors`.

    Names are those of timm's feature network, `timm.create_model(NAME, features_only=True, ...)`, onto which
    `peft.PeftModel.from_pretrained(network, folder)` loads them. Neck, head and unfrozen parameters have no place in
    this layout.

    Args:
        path: adapter file.
        folder: is made where it does not exist; the two files in it are replaced.

    Raises:
        FileNotFoundError: there is no such adapter file.
        AdapterError: the file is broken, has no LoRA in the backbone, or a delta that PEFT computes in another way.
    """
    info, tensors = read_adapter(path)
    part, settings = _backbone_part(info, tensors)
    if not settings:
        raise AdapterError(f"{path} has no LoRA layer in the backbone, so there is nothing for PEFT's layout.")
    if blocks := [name for name, entry in settings.items() if entry.get("variant") in BLOCK_ADAPTERS]:
        raise AdapterError(
            f"{path}: {join(part, blocks[0])} has {name_of(settings[blocks[0]]['variant'])}, for which PEFT's layout "
            "has no place: share the adapter file itself."
        )
    network = _NETWORK if all(name.startswith(_NETWORK) for name in settings) else ""
    content: dict[str, Tensor] = {}
    used: set[str] = set()
    for name in settings:
        full = join(part, name)
        _check_kind(path, full, info, tensors)
        own = {key.removeprefix(f"{full}."): value for key, value in tensors.items() if is_under(key, full)}
        content |= {f"base_model.model.{name.removeprefix(network)}.{k}": v for k, v in _peft_tensors(own).items()}
        used |= {f"{full}.{key}" for key in own if key.startswith("lora_")}
    settings = {name.removeprefix(network): _peft_sizes(entry) for name, entry in settings.items()}
    config = _config(path, settings, _model_name(info, part))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_open(folder / WEIGHTS, "wb") as file:
        file.write(safetensors.torch.save(content, {"format": "pt"}))
    write_json(folder / CONFIG, config)
    left_out = [name for name in tensors if name not in used]
    return PeftFolder(folder, list(settings), left_out, [name for name in left_out if is_under(name, part)])


def _backbone_part(info: Mapping[str, Any], tensors: Iterable[str]) -> tuple[str, dict[str, dict[str, Any]]]:
    """Path of the backbone, "" where the model itself is one; its LoRA layers by their path in it → recipe entry."""
    entries = {
        join(path, layer): entry
        for path, recipe in info["recipes"].items()
        for entry in recipe["lora"]
        for layer in entry["matched"]
    }
    known = [*entries, *info["recipes"], *tensors]
    fallback = "backbone" if info["parameters"]["backbone"]["total"] else ""
    part = next((part for part in _BACKBONES if any(is_under(name, part) for name in known)), fallback)
    start = len(part) + 1 if part else 0
    return part, {name[start:]: entry for name, entry in entries.items() if is_under(name, part)}


def _check_kind(path: str | os.PathLike, layer: str, info: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise AdapterError unless PEFT's Linear or Conv2d computes the layer's delta as ours does."""
    if f"{layer}.q_lora_a" in tensors:
        raise AdapterError(
            f"{path}: {layer} is an attention with LoRA of its own for q, k and v, which PEFT's layout does not have "
            "(it gives the fused projection one delta). Merge the adapter into a plain checkpoint instead."
        )
    shapes = [tuple(tensors[f"{layer}.{n}"].shape) for n in ("lora_a", "lora_b") if f"{layer}.{n}" in tensors]
    if len(shapes) < 2 or len(shapes[0]) not in (2, 4):
        raise AdapterError(
            f"{path}: {layer} is neither a linear layer nor a convolution, which is all that is exported."
        )
    if len(shapes[0]) == 2:
        return
    if "geometry" not in info and (shapes[0][1] == 1 or shapes[0][2:] != (1, 1)):
        raise AdapterError(
            f"{path} is of an older loradet and does not tell how the convolution {layer} is applied; write it again "
            "by `loradet adapters export --config-file … --checkpoint …`."
        )
    geometry = info.get("geometry", {}).get(layer, {})
    if geometry.get("groups", 1) > 1:
        raise AdapterError(
            f"{path}: {layer} is a depthwise convolution, whose LoRA here (kernels that all channels share) PEFT does "
            "not have. Train without this target to use PEFT, or merge the adapter into a plain checkpoint."
        )
    # PEFT gives its first convolution the kernel, stride and padding of the base, and no more.
    if shapes[0][2:] != (1, 1) and geometry:
        named = ", ".join(f"{key}={value}" for key, value in geometry.items())
        raise AdapterError(
            f"{path}: {layer} is a convolution with {named}, which PEFT's LoRA does not follow. Merge the adapter into "
            "a plain checkpoint instead."
        )


def _peft_tensors(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A layer's tensors by PEFT's names; PiSSA's as plain LoRA of twice its rank, which is the same delta."""
    a, b = own["lora_a"], own["lora_b"]
    if "lora_a_start" in own:
        a, b = torch.cat([a, own["lora_a_start"]]), torch.cat([b, -own["lora_b_start"]], dim=1)
    tensors = {"lora_A.weight": a, "lora_B.weight": b}
    if (magnitude := own.get("lora_magnitude")) is not None:
        # Without `.weight`; of a convolution with the axes of its output.
        tensors["lora_magnitude_vector"] = magnitude.view(1, -1, 1, 1) if b.dim() == 4 else magnitude
    return tensors


def _peft_sizes(entry: Mapping[str, Any]) -> dict[str, Any]:
    factor = 2 if entry.get("variant") == "pissa" else 1
    return {**entry, "rank": factor * entry["rank"], "alpha": factor * entry["alpha"]}


def _config(
    path: str | os.PathLike, settings: Mapping[str, Mapping[str, Any]], model_name: str | None
) -> dict[str, Any]:
    variants = {entry.get("variant", "lora") for entry in settings.values()}
    if "dora" in variants and len(variants) > 1:
        raise AdapterError(
            f"{path} has DoRA on some layers and {', '.join(sorted(variants - {'dora'}))} on others; in PEFT's layout "
            "all or none are DoRA. Merge the adapter into a plain checkpoint instead."
        )
    use_rslora = variants == {"rslora"}
    if not use_rslora:  # one switch for all layers: of some, alpha says it
        settings = {
            name: {**e, "alpha": e["alpha"] * e["rank"] ** 0.5} if e.get("variant") == "rslora" else e
            for name, e in settings.items()
        }
    rank, alpha, dropout = (
        Counter(entry[key] for entry in settings.values()).most_common(1)[0][0] for key in ("rank", "alpha", "dropout")
    )
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": model_name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _plain(alpha),
        "lora_dropout": dropout,
        "target_modules": list(settings),
        "rank_pattern": {name: entry["rank"] for name, entry in settings.items() if entry["rank"] != rank},
        "alpha_pattern": {name: _plain(e["alpha"]) for name, e in settings.items() if e["alpha"] != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "use_rslora": use_rslora,
        "use_dora": variants == {"dora"},
    }


def _plain(alpha: float) -> int | float:
    return int(alpha) if alpha == int(alpha) else alpha


def _model_name(info: Mapping[str, Any], part: str) -> str | None:
    # A backbone without neck that keeps timm's network in `net` was adapted one level above the part.
    names = [
        recipe["model_name"]
        for path, recipe in info["recipes"].items()
        if recipe["lora"] and (is_under(path, part) or is_under(part, path))
    ]
    return next(filter(None, names), None)
