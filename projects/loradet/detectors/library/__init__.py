"""Detectors of the library transformers (an extra) as Detectron2 models."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.detectors.library.families import FAMILIES
    from loradet.detectors.library.maps import LibraryBackbone
    from loradet.detectors.library.meta_arch import TransformersDetector
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["FAMILIES", "LibraryBackbone", "TransformersDetector"]
