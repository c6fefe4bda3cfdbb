"""Augmentations that Detectron2 does not have; `configs/common/augment.py` puts presets together of both."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.datasets.augment.color import RandomColor
    from loradet.datasets.augment.edge_lengths import short_edges
    from loradet.datasets.augment.mosaic import Mosaic
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["Mosaic", "RandomColor", "short_edges"]
