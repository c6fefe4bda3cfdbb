"""Adapt frozen foundation backbones to object detection, as a Detectron2 project.

Importing this package makes `import detectron2` work (installed or embedded, see `detectron2_embedded`)
and does nothing else: torch is imported by the subpackages that need it, and by the functions below when first used.
"""

from typing import TYPE_CHECKING

import detectron2_embedded as _detectron2_embedded  # noqa: F401
from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet import errors
    from loradet.config.library import get_config
    from loradet.inference.loading import load
    from loradet.training.python import evaluate, train
else:
    __getattr__, __dir__ = lazy_names(__name__)

__version__ = "0.1.0"
__all__ = ["__version__", "errors", "evaluate", "get_config", "load", "train"]
