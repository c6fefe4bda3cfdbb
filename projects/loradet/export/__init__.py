"""A detector as one file: its exportable form, torch.export programs, ONNX files, and what they say of themselves."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.export.detector import export_detector
    from loradet.export.metadata import read_metadata
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["export_detector", "read_metadata"]
