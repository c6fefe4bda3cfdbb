"""What the views of one image have found, in pixels of the image."""

from dataclasses import dataclass

import numpy as np

from loradet.views.windows import Window

LEFT, TOP, RIGHT, BOTTOM = range(4)


@dataclass(frozen=True, eq=False)
class Found:
    """N boxes of V views.

    Attributes:
        boxes: (N, 4) XYXY in pixels of the image, float64.
        scores: (N,) 0..1.
        classes: (N,) class numbers.
        views: (N,) number of the view that each box is from.
        windows: (V, 4) XYXY of the views in the image.
        margins: (V,) pixels of the image that a box may end short of its view's border and yet be cut by it.
        size: (height, width) of the image.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    views: np.ndarray
    windows: np.ndarray
    margins: np.ndarray
    size: tuple[int, int]

    @property
    def inner(self) -> np.ndarray:
        """(V, 4) bool: which borders of the views lie inside the image, where they cut objects."""
        height, width = self.size
        return self.windows != np.array([0, 0, width, height])

    @property
    def cut(self) -> np.ndarray:
        """(N, 4) bool: which sides of the boxes lie at an inner border of their view."""
        return self.inner[self.views] & self._at_border(self.boxes, self.views)

    def seen_whole(self, boxes: np.ndarray) -> np.ndarray:
        """(M, V) bool: which views have each of the boxes (M, 4) in them, not cut."""
        numbers = np.arange(len(self.windows))
        near = self._at_border(boxes[:, None], numbers)
        return ~(self.inner & near).any(axis=-1)

    def _at_border(self, boxes: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Whether each side lies at, or beyond, the border of a view."""
        inside = (boxes - self.windows[views]) * np.array([1, 1, -1, -1])
        return inside <= self.margins[views][..., None]


def window_box(window: Window) -> tuple[float, float, float, float]:
    """XYXY of a window."""
    return window.left, window.top, window.left + window.width, window.top + window.height
