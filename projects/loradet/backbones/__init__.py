"""Backbones for Detectron2 models. Importing this package enters them in `BACKBONE_REGISTRY`."""

from .dinov3_convnext import Dinov3TimmConvNeXtLoRA
from .timm_backbone import TimmBackbone

__all__ = ["Dinov3TimmConvNeXtLoRA", "TimmBackbone"]
