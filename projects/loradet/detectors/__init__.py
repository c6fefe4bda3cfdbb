"""Detectors that Detectron2 does not have."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.detectors import detr
    from loradet.detectors.library.meta_arch import TransformersDetector
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["TransformersDetector", "detr"]
