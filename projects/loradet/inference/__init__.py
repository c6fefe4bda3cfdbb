"""Trained detectors at work: loading them, running them on image files, exporting them."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.inference.export import export_detector
    from loradet.inference.exported import ExportedDetector
    from loradet.inference.image_files import find_images
    from loradet.inference.loading import Predictor, load
    from loradet.inference.predictor import predict
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["ExportedDetector", "Predictor", "export_detector", "find_images", "load", "predict"]
