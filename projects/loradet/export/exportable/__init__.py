"""Exportable forms of detectors, one a file."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.export.exportable.base import OUTPUTS, Exportable
    from loradet.export.exportable.registry import FORMS, exportable
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["FORMS", "OUTPUTS", "Exportable", "exportable"]
