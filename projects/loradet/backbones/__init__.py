"""Backbones for Detectron2 models. Importing this package enters them in `BACKBONE_REGISTRY`."""

from .dinov3_convnext import Dinov3TimmConvNeXtLoRA
from .selective_scan import selective_scan
from .timm_backbone import TimmBackbone
from .timm_vit import TimmViT
from .vision_mamba import VisionMamba

__all__ = ["Dinov3TimmConvNeXtLoRA", "TimmBackbone", "TimmViT", "VisionMamba", "selective_scan"]
