"""Pictures: painted boxes, contact sheets, curves, heat maps, pages. Images are RGB uint8 (H, W, 3)."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.visualization.painting import LabelledBoxes, Panel, contact_sheet, paint_boxes, paint_pair, save_png
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["LabelledBoxes", "Panel", "contact_sheet", "paint_boxes", "paint_pair", "save_png"]
