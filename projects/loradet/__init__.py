"""Adapt frozen foundation backbones to object detection, as a Detectron2 project.

Importing this package makes `import detectron2` work (installed or embedded, see `detectron2_embedded`)
and does nothing else: torch is imported by the subpackages that need it, and by the functions below when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

import detectron2_embedded as _detectron2_embedded  # noqa: F401

if TYPE_CHECKING:
    from loradet.config.library import get_config
    from loradet.inference.loading import load
    from loradet.training.python import evaluate, train

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "get_config", "load", "train"]

_PLACES = {
    "evaluate": "loradet.training.python",
    "get_config": "loradet.config.library",
    "load": "loradet.inference.loading",
    "train": "loradet.training.python",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
