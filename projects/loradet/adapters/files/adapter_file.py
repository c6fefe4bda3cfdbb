"""Adapter files: all that training changed, with what is needed to put it on the right base, and nothing else."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from loradet import __version__
from loradet.adapters.files.comparison import differences
from loradet.adapters.files.header import header_problem
from loradet.adapters.freezing import frozen_modules
from loradet.adapters.layer import adapter_layers, adapter_tensor_names, is_under, unwrap
from loradet.adapters.parameters import parameter_table
from loradet.adapters.recipe import BLOCK_ADAPTERS, adapter_state, fingerprint, lora_variants, recipes
from loradet.adapters.variants.registry import VARIANTS
from loradet.errors import MissingFileError, UserError
from loradet.files import atomic_open, parse_json
from loradet.remote import local_copy, scheme_of
from loradet.tensors import check_tensors

FORMAT = 1
METADATA_KEY = "loradet_adapter"
_PIXEL_STATISTICS = ("pixel_mean", "pixel_std")


class AdapterError(UserError):
    """An adapter file is broken or does not fit the model; the message names the file and all that differs."""


def save_adapter(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    classes: Sequence[str] | None = None,
    class_ids: Sequence[int] | None = None,
    intensity: str | Sequence[float] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write what training changed: LoRA tensors, every other trainable tensor, buffers of what is not frozen.

    Frozen tensors of modules that went through `freeze` or `lora` stay out; their fingerprint goes in. Everything
    else is written, so the file of a model without either holds the whole model.

    Args:
        model: merged or not, DistributedDataParallel or not.
        path: safetensors file; it is written whole or not at all.
        classes: class names, in the order of the model's outputs.
        class_ids: the data set's ids of these classes, in the same order.
        intensity: the rule that the training images were read by, as configs write it.
        metadata: JSON-able values to keep besides.

    Raises:
        ValueError: nothing in the model trains, classes and ids differ in number, or metadata is not JSON.
    """
    model = unwrap(model)
    tensors = trained_tensors(model)
    if not tensors:
        raise UserError("save_adapter: nothing in this model trains, so there is nothing to save.")
    if classes is not None and class_ids is not None and len(classes) != len(class_ids):
        raise UserError(f"save_adapter: {len(classes)} classes, but {len(class_ids)} class_ids; one id a class.")
    info = {
        "format": FORMAT,
        "model": type(model).__name__,
        "recipes": adapter_state(model),
        "frozen": frozen_fingerprints(model, tensors),
        "classes": None if classes is None else [str(name) for name in classes],
        "class_ids": None if class_ids is None else [int(i) for i in class_ids],
        **pixel_statistics(model),
        **({} if intensity is None else {"intensity": intensity}),
        "geometry": {path: found for path, layer in adapter_layers(model) if (found := layer.geometry())},
        "parameters": parameter_table(model).to_dict(),
        "versions": {"loradet": __version__, "torch": torch.__version__},
        "metadata": dict(metadata or {}),
    }
    write_adapter(path, info, tensors)


def write_adapter(path: str | os.PathLike, info: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write what `read_adapter` reads, whole or not at all; the same content gives the same bytes.

    Raises:
        ValueError: `info` is not JSON.
    """
    try:
        text = json.dumps(info, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise UserError(f"save_adapter: metadata takes plain JSON values ({error}).") from error
    # Clones: safetensors refuses tensors that share memory or are not contiguous.
    held = {name: t.cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    content = _in_order(safetensors.torch.save(held, {METADATA_KEY: text, "format": "pt"}))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path, "wb") as file:
        file.write(content)


def _in_order(content: bytes) -> bytes:
    """A safetensors file whose metadata are sorted; the library writes them in an order of chance.

    It is the length of the header (8 bytes), the header as JSON, padded by blanks to whole 8 bytes, and the tensors.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def load_adapter(model: nn.Module, path: str | os.PathLike) -> dict[str, Any]:
    """Put an adapter file onto a model that holds the base weights and went through the same `freeze` and `lora`.

    Everything is checked before anything is copied.

    Returns:
        What the file says besides its tensors: "classes", "class_ids", "recipes", "metadata" …

    Raises:
        FileNotFoundError: there is no such file.
        AdapterError: the file is broken, or the base weights, the recipe, a tensor's name or shape, or the pixel
            statistics differ; names all that differs.
    """
    model = unwrap(model)
    info, tensors = read_fitting_adapter(model, path)
    with torch.no_grad():
        for name, tensor in trained_tensors(model).items():
            tensor.copy_(tensors[name])
    return info


def read_fitting_adapter(
    model: nn.Module, path: str | os.PathLike, other_classes: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`read_adapter` of a file that fits a model; nothing of the model is changed.

    Args:
        other_classes: names of tensors whose shapes may differ, as those of a head for other classes.

    Raises:
        FileNotFoundError, AdapterError: as `load_adapter`.
    """
    model = unwrap(model)
    info, tensors = read_adapter(path)
    if any(layer.merged for _, layer in adapter_layers(model)):
        raise AdapterError(f"{path}: the model is merged; call loradet.adapters.unmerge(model) before loading.")
    own = trained_tensors(model)
    compared = tensors | {name: own[name] for name in other_classes if name in own and name in tensors}
    check_tensors(compared, path, own, error=AdapterError)
    found = differences(
        info,
        compared,
        {"recipes": adapter_state(model), **pixel_statistics(model)},
        own,
        frozen_fingerprints(model, tensors),
    )
    if found:
        lines = "".join(f"\n  - {line}" for line in found)
        raise AdapterError(f"{path} does not fit this model, nothing was loaded:{lines}")
    return info, tensors


def read_adapter(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What an adapter file says, and its tensors on the CPU.

    Args:
        path: of the file, or a URL of it.

    Raises:
        FileNotFoundError: there is no such file.
        AdapterError: it is not a safetensors file, no adapter, or of a newer format; or a tensor of it is no weight.
    """
    path = local_copy(os.fspath(path)) if scheme_of(path) else Path(path)
    if not path.is_file():
        raise MissingFileError(f"No adapter file at {path}; training leaves one in its output folder.")
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (safetensors.SafetensorError, OSError) as error:
        raise AdapterError(f"{path} is not a readable safetensors file ({error}); it may be cut short.") from error
    try:
        info = parse_json(header[METADATA_KEY], f"{path}: {METADATA_KEY}")
        version = int(info["format"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise AdapterError(
            f"{path} is no adapter file: its header has no valid '{METADATA_KEY}'. Adapter files are written by "
            "save_adapter or `loradet adapters export`."
        ) from error
    if version > FORMAT:
        raise AdapterError(f"{path} has format {version}, this loradet {__version__} reads up to {FORMAT}: update it.")
    if (problem := header_problem(info)) is not None:
        raise AdapterError(f"{path} is damaged: {METADATA_KEY}: {problem}. Take a whole copy, or export it anew.")
    for recipe in info["recipes"].values():
        for variant in set(lora_variants(recipe).values()) - VARIANTS.keys() - BLOCK_ADAPTERS.keys():
            known = ", ".join([*VARIANTS, *BLOCK_ADAPTERS])
            raise AdapterError(f"{path} is of variant {variant!r}, this loradet {__version__} has {known}: update it.")
    check_tensors(tensors, path, error=AdapterError)
    return info, tensors


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Those entries of the state dict that belong into an adapter file; they share memory with the model."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    deltas = adapter_tensor_names(model)
    adapted = [path for path, _, _ in recipes(model)]
    frozen = frozen_modules(model)

    def trained(name: str) -> bool:
        if name in deltas or not any(is_under(name, path) for path in adapted):
            return True
        if name in parameters:
            return parameters[name].requires_grad
        return name.rpartition(".")[0] not in frozen

    return {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor) and trained(k)}


def frozen_fingerprints(model: nn.Module, covered: Mapping[str, Any]) -> dict[str, str | None]:
    """By path of each adapted module: fingerprint of those of its tensors that an adapter file does not cover."""
    state = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor) and k not in covered}
    prints = {}
    for path, _, _ in recipes(model):
        start = len(path) + 1 if path else 0
        prints[path] = fingerprint({k[start:]: v for k, v in state.items() if is_under(k, path)})
    return prints


def pixel_statistics(model: nn.Module) -> dict[str, list[float] | None]:
    """The detector's `pixel_mean` and `pixel_std`, flat; None where it has none."""
    values = {name: getattr(model, name, None) for name in _PIXEL_STATISTICS}
    return {
        name: value.detach().double().flatten().tolist() if isinstance(value, Tensor) else None
        for name, value in values.items()
    }
