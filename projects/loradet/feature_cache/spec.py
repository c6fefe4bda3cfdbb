"""What features depend on besides image and view: entries of different specs never meet."""

import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from detectron2.data import transforms as T
from fvcore.transforms.transform import HFlipTransform, VFlipTransform
from torch import nn

import loradet
from loradet.feature_cache.frozen_part import FrozenPart, fingerprint, structure
from loradet.feature_cache.views import describe_mapper

FORMAT = 2  # of the files; another number lets all of before lie
_LIBRARIES = ("torch", "torchvision", "timm", "pillow", "numpy", "opencv-python-headless")
_ROOMS = ("backbones", "datasets", "feature_cache")  # of loradet, where pixels and features are made


def spec_of(
    model: nn.Module,
    part: FrozenPart,
    mapper: Any,
    *,
    padded: tuple[int, int],
    autocast: torch.dtype | None,
    layout: list[list[Any]],
) -> dict[str, Any]:
    """All of it as plain values.

    Args:
        model: with its weights.
        part: of it.
        mapper: that reads the images.
        padded: (height, width) of batches, pixels.
        autocast: type of the autocast, or None.
        layout: of the entries.
    """
    statistics = [getattr(model, name, None) for name in ("pixel_mean", "pixel_std")]
    return {
        "format": FORMAT,
        "weights": fingerprint(model, part),
        "structure": structure(model, part),
        "part": [list(part.steps), list(part.kept)],
        "code": _code(model, part, mapper),
        "mapper": describe_mapper(mapper),
        "pixels": [None if tensor is None else tensor.flatten().tolist() for tensor in statistics],
        "padded": list(padded),
        "computed_in": [*_computed_in(next(model.parameters()).device), str(autocast)],
        "layout": layout,
    }


def spec_name(spec: dict[str, Any]) -> str:
    """A short name that no other spec has."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:20]


def _computed_in(device: torch.device) -> list[str]:
    """The device, and the settings that its kernels round by, which torch has by older and by newer names."""
    backends = torch.backends
    if device.type != "cuda":
        settings = {
            "matmul": torch.get_float32_matmul_precision,
            "mkldnn": lambda: (backends.mkldnn.matmul.fp32_precision, backends.mkldnn.conv.fp32_precision),
        }
    else:
        settings = {
            "matmul": lambda: backends.cuda.matmul.allow_tf32,
            "matmul precision": lambda: backends.cuda.matmul.fp32_precision,
            "half": lambda: backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
            "cudnn": lambda: (backends.cudnn.enabled, backends.cudnn.allow_tf32),
            "cudnn precision": lambda: backends.cudnn.conv.fp32_precision,
        }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return [name, *(f"{key} {_asked(get)}" for key, get in settings.items())]


def _asked(get: Callable[[], Any]) -> str:
    try:
        return str(get())
    except AttributeError:  # an older torch
        return "unknown"
    except RuntimeError:  # set by names of both kinds
        return "mixed"


def _code(model: nn.Module, part: FrozenPart, mapper: Any) -> dict[str, Any]:
    versions = {name: _version(name) for name in _LIBRARIES}
    backbone = model.get_submodule(part.backbone)
    around = [type(module) for module in _from_model_to(model, part.backbone)]
    kinds = {type(module) for module in backbone.modules()}
    others = _sources({type(mapper), T.ResizeTransform, HFlipTransform, VFlipTransform, *kinds, *around})
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in around]
    return {"loradet": f"{loradet.__version__} {_own_sources()}", **versions, "other": others, "around": names}


def _from_model_to(model: nn.Module, path: str) -> Iterator[nn.Module]:
    """The modules that a module lies in, which give it its input; the model comes first."""
    names = path.split(".") if path else []
    yield from (model.get_submodule(".".join(names[:count])) for count in range(len(names)))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


@cache
def _own_sources() -> str:
    root = Path(loradet.__file__).parent
    return _hash(file for room in _ROOMS for file in sorted((root / room).rglob("*.py")))


def _sources(kinds: set[type]) -> str:
    """Of classes and their bases that are neither torch's nor timm's, whose versions say enough."""
    files = set()
    for kind in {base for one in kinds for base in one.__mro__}:
        if kind.__module__.partition(".")[0] not in ("torch", "torchvision", "timm", "builtins", "typing"):
            try:
                files.add(inspect.getsourcefile(kind))
            except (TypeError, OSError):
                continue  # made at run time; the class that it is made from is among the types
    return _hash(Path(file) for file in sorted(filter(None, files)))


def _hash(files: Iterator[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
