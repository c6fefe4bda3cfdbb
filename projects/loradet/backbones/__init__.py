"""Backbones for Detectron2 models. Importing this package enters them in `BACKBONE_REGISTRY`."""

from loradet.backbones.dinov3_convnext import Dinov3TimmConvNeXtLoRA
from loradet.backbones.selective_scan import selective_scan
from loradet.backbones.timm_backbone import TimmBackbone
from loradet.backbones.timm_lr_decay import timm_lr_factors
from loradet.backbones.timm_vit import TimmViT
from loradet.backbones.vision_mamba import VisionMamba

__all__ = ["Dinov3TimmConvNeXtLoRA", "TimmBackbone", "TimmViT", "VisionMamba", "selective_scan", "timm_lr_factors"]
