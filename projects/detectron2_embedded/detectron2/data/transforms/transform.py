"""Import path of the transforms, which stand beside the augmentations that draw them."""

from detectron2._subset import missing_names
from detectron2.data.transforms.color import ColorTransform, PILColorTransform
from detectron2.data.transforms.extent import ExtentTransform
from detectron2.data.transforms.resize import ResizeTransform
from detectron2.data.transforms.rotation import RotationTransform

__all__ = ["ColorTransform", "ExtentTransform", "PILColorTransform", "ResizeTransform", "RotationTransform"]


__getattr__ = missing_names(__name__, ["HFlip_rotated_box", "Resize_rotated_box"])
