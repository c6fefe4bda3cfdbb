"""Adapters in the layout of Hugging Face's PEFT library, onto a network of ours."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from loradet.adapters.files.adapter_file import AdapterError
from loradet.adapters.files.peft_layout import CONFIG, WEIGHTS
from loradet.adapters.injection import lora
from loradet.adapters.layer import AdapterLayer, adapter_layers
from loradet.errors import MissingFileError
from loradet.files import parse_json
from loradet.tensors import check_tensors
from loradet.wording import shorten

_PREFIX = "base_model.model."
_TENSORS = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b", "lora_magnitude_vector": "lora_magnitude"}
# Keys that say nothing of what is computed, or that the tensors' names and shapes say better.
_WITHOUT_EFFECT = (
    *(
        "peft_type",
        "peft_version",
        "task_type",
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
    ),
    *("r", "rank_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("runtime_config", "corda_config", "eva_config", "lora_ga_config", "ensure_weight_tying"),
    *("megatron_core", "qalora_group_size"),  # which do nothing without megatron_config and use_qalora
)
# Starts that leave the base as it is; the others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) train on another one.
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
_UNDERSTOOD = ("lora_alpha", "alpha_pattern", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights")


def load_peft(module: nn.Module, folder: str | os.PathLike, *, memory: str = "lean") -> nn.Module:
    """Wrap the layers that a folder of PEFT holds LoRA of, and load it; the counterpart of `export_peft`.

    In a config: `L(load_peft)(module=L(freeze)(module=…, unfreeze=[]), folder="adapter")`.

    Args:
        module: a network with the names that PEFT's file has, or one that keeps such a network in `net`.
        folder: with `adapter_config.json` and `adapter_model.safetensors`: LoRA, rsLoRA or DoRA of linear layers and
            convolutions.
        memory: as of `lora`.

    Returns:
        The module itself.

    Raises:
        FileNotFoundError: one of the two files is not there.
        AdapterError: a file is broken, has no such layers as the module, or asks for what is computed otherwise here;
            the key, or the layer, is named.
    """
    config, content = _read(Path(folder))
    layers = _by_layer(content, folder)
    network = "net." if isinstance(getattr(module, "net", None), nn.Module) else ""
    paths = {name: f"{network}{name}" for name in layers}
    there = dict(module.named_modules())
    if missing := [name for name, path in paths.items() if path not in there]:
        raise AdapterError(
            f"{folder}: {type(module).__name__} has no {shorten(missing)}; the adapter is of "
            f"{config.get('base_model_name_or_path') or 'another network'}."
        )
    _check_geometry(folder, there, paths)
    ranks = {f"re:{re.escape(paths[name])}": tensors["lora_a"].shape[0] for name, tensors in layers.items()}
    alphas = {f"re:{re.escape(paths[name])}": float(_alpha(config, name)) for name in layers}
    variant = "dora" if config.get("use_dora") else "rslora" if config.get("use_rslora") else "lora"
    if config.get("use_dora") and config.get("use_rslora"):  # DoRA of rank-stabilized scale: alpha can say it
        alphas = {pattern: alpha * ranks[pattern] ** 0.5 for pattern, alpha in alphas.items()}
    first = next(iter(ranks))
    dropout = float(config.get("lora_dropout") or 0.0)
    options: dict[str, Any] = {"dropout": dropout, "memory": memory, "variant": variant}
    lora(module, list(ranks), ranks[first], alphas[first], ranks=ranks, alphas=alphas, **options)
    wrapped = dict(adapter_layers(module))
    for name, tensors in layers.items():
        _load(wrapped[paths[name]], tensors, f"{folder}: {name}")
    return module


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise MissingFileError(f"{folder} has no {name}; PEFT's save_pretrained writes {CONFIG} and {WEIGHTS}.")
    config = parse_json((folder / CONFIG).read_bytes(), str(folder / CONFIG))
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else config
        raise AdapterError(f"{folder / CONFIG}: peft_type is {kind!r}; LORA is read, with use_rslora or use_dora.")
    unknown = {k: v for k, v in config.items() if k not in (*_WITHOUT_EFFECT, *_UNDERSTOOD) and not _is_off(k, v)}
    if unknown:
        listed = ", ".join(f"{key}={value!r}" for key, value in unknown.items())
        raise AdapterError(f"{folder / CONFIG}: {listed}: this is not understood here, and nothing was loaded.")
    start = config.get("init_lora_weights", True)
    if (start.lower() if isinstance(start, str) else start) not in _STARTS:
        raise AdapterError(
            f"{folder / CONFIG}: init_lora_weights={start!r} changes the base weights before training, and the file is "
            "relative to those. Save it by PEFT as plain LoRA: "
            "save_pretrained(…, path_initial_model_for_weight_conversion=…)."
        )
    try:
        content = safetensors.torch.load_file(folder / WEIGHTS)
    except (safetensors.SafetensorError, OSError) as error:
        raise AdapterError(f"{folder / WEIGHTS} is not a readable safetensors file ({error}).") from error
    check_tensors(content, folder / WEIGHTS, error=AdapterError)
    return config, content


def _is_off(key: str, value: Any) -> bool:
    return value in (None, False, [], {}) or (key == "bias" and value == "none")


def _by_layer(content: Mapping[str, Tensor], folder: str | os.PathLike) -> dict[str, dict[str, Tensor]]:
    layers: dict[str, dict[str, Tensor]] = {}
    odd = []
    for key, tensor in content.items():
        ending = next((ending for ending in _TENSORS if key.endswith(f".{ending}")), None)
        if ending is None or not key.startswith(_PREFIX):
            odd.append(key)
            continue
        name = key[len(_PREFIX) : -len(ending) - 1]
        layers.setdefault(name, {})[_TENSORS[ending]] = tensor
    halves = [name for name, tensors in layers.items() if not {"lora_a", "lora_b"} <= tensors.keys()]
    if odd or halves or not layers:
        what = shorten(odd) if odd else f"{shorten(halves)} without one of its factors" if halves else "nothing"
        raise AdapterError(f"{Path(folder) / WEIGHTS} holds {what}; lora_A and lora_B of layers are read.")
    return layers


def _check_geometry(folder: str | os.PathLike, there: Mapping[str, nn.Module], paths: Mapping[str, str]) -> None:
    """Refuse convolutions whose delta PEFT applies otherwise than the base; ours has all of the base's geometry."""
    for name, path in paths.items():
        module = there[path]
        if not isinstance(module, nn.Conv2d):
            continue
        usual = {"groups": 1, "dilation": (1, 1), "padding_mode": "zeros"}
        other = {key: getattr(module, key) for key, value in usual.items() if getattr(module, key) != value}
        if other and (module.kernel_size != (1, 1) or "groups" in other):
            listed = ", ".join(f"{key}={value}" for key, value in other.items())
            raise AdapterError(f"{folder}: {name} is a convolution with {listed}, whose LoRA PEFT computes otherwise.")


def _alpha(config: Mapping[str, Any], name: str) -> float:
    """As PEFT finds it: the first pattern that is the end of the name, else the common one."""
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return alpha
    return config.get("lora_alpha", 8)


def _load(layer: AdapterLayer, tensors: Mapping[str, Tensor], where: str) -> None:
    own = layer.adapter_tensors()
    if own.keys() != tensors.keys():
        raise AdapterError(f"{where} has {', '.join(tensors)}; expected {', '.join(own)}.")
    for name, tensor in tensors.items():
        # The magnitude of a convolution has the axes of its output.
        tensor = tensor.flatten() if name == "lora_magnitude" else tensor
        if tensor.shape != own[name].shape:
            raise AdapterError(f"{where}: {name} is {tuple(tensor.shape)}; expected {tuple(own[name].shape)}.")
        own[name].data.copy_(tensor)
