"""Import path of the augmentations, each of which has a module with its kin."""

from detectron2.data.transforms.color import RandomBrightness, RandomContrast, RandomLighting, RandomSaturation
from detectron2.data.transforms.crop import (
    FixedSizeCrop,
    MinIoURandomCrop,
    RandomCrop,
    RandomCrop_CategoryAreaConstraint,
)
from detectron2.data.transforms.extent import RandomExtent
from detectron2.data.transforms.flip import RandomFlip
from detectron2.data.transforms.random_apply import RandomApply
from detectron2.data.transforms.resize import RandomResize, Resize, ResizeScale, ResizeShortestEdge
from detectron2.data.transforms.rotation import RandomRotation

__all__ = [
    "FixedSizeCrop",
    "MinIoURandomCrop",
    "RandomApply",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomCrop_CategoryAreaConstraint",
    "RandomExtent",
    "RandomFlip",
    "RandomLighting",
    "RandomResize",
    "RandomRotation",
    "RandomSaturation",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
]
