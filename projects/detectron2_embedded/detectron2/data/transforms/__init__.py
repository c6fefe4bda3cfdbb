"""Transforms (deterministic, from fvcore and here) and augmentations (random policies that return them)."""

from detectron2._subset import missing_names
from detectron2.data.transforms.augmentation import (
    AugInput,
    Augmentation,
    AugmentationList,
    StandardAugInput,
    apply_augmentations,
)
from detectron2.data.transforms.augmentation_impl import (
    FixedSizeCrop,
    RandomApply,
    RandomBrightness,
    RandomContrast,
    RandomCrop,
    RandomFlip,
    RandomSaturation,
    Resize,
    ResizeScale,
    ResizeShortestEdge,
)
from detectron2.data.transforms.transform import ResizeTransform
from fvcore.transforms.transform import (
    BlendTransform,
    CropTransform,
    GridSampleTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    ScaleTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "BlendTransform",
    "CropTransform",
    "FixedSizeCrop",
    "GridSampleTransform",
    "HFlipTransform",
    "NoOpTransform",
    "PadTransform",
    "RandomApply",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomFlip",
    "RandomSaturation",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
    "ResizeTransform",
    "ScaleTransform",
    "StandardAugInput",
    "Transform",
    "TransformList",
    "VFlipTransform",
    "apply_augmentations",
]

__getattr__ = missing_names(
    __name__,
    [
        "ColorTransform",
        "ExtentTransform",
        "MinIoURandomCrop",
        "PILColorTransform",
        "RandomCrop_CategoryAreaConstraint",
        "RandomExtent",
        "RandomLighting",
        "RandomResize",
        "RandomRotation",
        "RotationTransform",
    ],
)
