"""Mirroring."""

import numpy as np
from detectron2.data.transforms.augmentation import Augmentation
from fvcore.transforms.transform import HFlipTransform, NoOpTransform, Transform, VFlipTransform


class RandomFlip(Augmentation):
    """Flip with probability `prob`, horizontally or vertically (one of the two)."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False):
        if horizontal == vertical:
            raise ValueError(
                f"RandomFlip takes exactly one of horizontal and vertical, got horizontal={horizontal}, "
                f"vertical={vertical}. Use two RandomFlip for both."
            )
        self.prob = prob
        self.horizontal = horizontal
        self.vertical = vertical

    def get_transform(self, image: np.ndarray) -> Transform:
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        height, width = image.shape[:2]
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)
