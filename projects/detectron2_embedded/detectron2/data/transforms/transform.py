"""Import path of the transforms, which stand beside the augmentations that draw them."""

from detectron2.data.transforms.color import ColorTransform, PILColorTransform
from detectron2.data.transforms.extent import ExtentTransform
from detectron2.data.transforms.resize import ResizeTransform
from detectron2.data.transforms.rotation import RotationTransform

__all__ = ["ColorTransform", "ExtentTransform", "PILColorTransform", "ResizeTransform", "RotationTransform"]
