"""Image files: what their headers say, their pixels, and the rules that bring deep ones into 0..255."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.datasets.images.intensity import Intensity
    from loradet.datasets.images.reading import read_image
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["Intensity", "read_image"]
