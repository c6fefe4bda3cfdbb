"""A float canvas with antialiased polygons and smooth random fields: what scenes are painted on."""

import cv2
import numpy as np

_SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates


def field(rng: np.random.Generator, size: tuple[int, int], cell: float, octaves: int = 1) -> np.ndarray:
    """Smooth random field (H, W), float32, about zero mean and unit deviation.

    Args:
        size: (H, W).
        cell: width in pixels of the coarsest features; every further octave halves it.
    """
    height, width = size
    total = np.zeros(size, np.float32)
    weight, norm = 1.0, 0.0
    for _ in range(octaves):
        rows, cols = int(np.ceil(height / cell)) + 3, int(np.ceil(width / cell)) + 3
        grid = rng.standard_normal((rows, cols), dtype=np.float32)
        full = cv2.resize(grid, (round(cols * cell), round(rows * cell)), interpolation=cv2.INTER_CUBIC)
        top, left = rng.integers(0, full.shape[0] - height + 1), rng.integers(0, full.shape[1] - width + 1)
        total += weight * full[top : top + height, left : left + width]
        norm += weight**2
        weight, cell = weight / 2, max(cell / 2, 1.0)
    return total * np.float32(1.3 / np.sqrt(norm))  # 1.3 makes up for what interpolation smooths away


class Canvas:
    """Float image (H, W, C) to blend polygons into. Points are XY in pixels, pixel edges at integers."""

    def __init__(self, size: tuple[int, int], channels: int) -> None:
        self.image = np.zeros((*size, channels), np.float32)

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[:2]

    def fill(
        self,
        points: np.ndarray,
        value: np.ndarray | float,
        opacity: float = 1.0,
        texture: np.ndarray | None = None,
        supersample: int = 4,
    ) -> None:
        """Blend a filled polygon.

        Args:
            points: corners (N, 2).
            value: colour (C,) or one number.
            texture: field (H, W) that multiplies the value.
            supersample: mask pixels per image pixel and axis; 1 for large shapes whose edges matter little.
        """
        height, width = self.size
        low, high = np.floor(points.min(0)), np.ceil(points.max(0))
        x0, y0 = max(int(low[0]), 0), max(int(low[1]), 0)
        x1, y1 = min(int(high[0]), width), min(int(high[1]), height)
        if x0 >= x1 or y0 >= y1:
            return
        mask = np.zeros(((y1 - y0) * supersample, (x1 - x0) * supersample), np.uint8)
        fixed = np.rint(((points - (x0, y0)) * supersample - 0.5) * (1 << _SHIFT)).astype(np.int32)
        line = cv2.LINE_AA if supersample == 1 else cv2.LINE_8
        cv2.fillPoly(mask, [fixed], 255, lineType=line, shift=_SHIFT)
        if supersample > 1:
            mask = cv2.resize(mask, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
        self._blend(mask, (slice(y0, y1), slice(x0, x1)), value, opacity, texture)

    def stroke(self, points: np.ndarray, thickness: int, value: np.ndarray | float, opacity: float = 1.0) -> None:
        """Blend an open polyline (N, 2), `thickness` in whole pixels."""
        mask = np.zeros(self.size, np.uint8)
        fixed = np.rint((points - 0.5) * (1 << _SHIFT)).astype(np.int32)
        cv2.polylines(mask, [fixed], False, 255, thickness, cv2.LINE_AA, _SHIFT)
        self._blend(mask, (slice(None), slice(None)), value, opacity, None)

    def add_patch(self, center: tuple[float, float], patch: np.ndarray) -> None:
        """Add an (h, w) patch around a point; what lies outside the image is cut off."""
        height, width = self.size
        left, top = int(center[0]) - patch.shape[1] // 2, int(center[1]) - patch.shape[0] // 2
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + patch.shape[0], height), min(left + patch.shape[1], width)
        if y0 < y1 and x0 < x1:
            self.image[y0:y1, x0:x1] += patch[y0 - top : y1 - top, x0 - left : x1 - left, None]

    def _blend(self, mask, window, value, opacity, texture) -> None:
        target = self.image[window]
        alpha = (mask.astype(np.float32) * np.float32(opacity / 255))[..., None]
        paint = np.asarray(value, np.float32)
        if texture is not None:
            paint = paint * texture[window][..., None]
        target += alpha * (paint - target)
