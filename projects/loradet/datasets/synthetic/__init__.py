"""Synthetic scenes, fully determined by a seed: SAR-like or optical-like with six classes, or ten plain shapes."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.datasets.synthetic.compose import MAX_OBJECTS, STYLE_CLASSES, scene
    from loradet.datasets.synthetic.geometric import SHAPE_CLASSES
    from loradet.datasets.synthetic.layouts import LAYOUTS
    from loradet.datasets.synthetic.shapes import CLASSES
    from loradet.datasets.synthetic.writer import default_counts, default_layout, generate
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "CLASSES",
    "LAYOUTS",
    "MAX_OBJECTS",
    "SHAPE_CLASSES",
    "STYLE_CLASSES",
    "default_counts",
    "default_layout",
    "generate",
    "scene",
]
