"""Networks that turn images into feature maps."""

from detectron2._subset import missing_names
from detectron2.modeling.backbone.backbone import Backbone
from detectron2.modeling.backbone.build import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN
from detectron2.modeling.backbone.resnet import (
    BasicBlock,
    BasicStem,
    BottleneckBlock,
    ResNet,
    ResNetBlockBase,
    make_stage,
)
from detectron2.modeling.backbone.vit import SimpleFeaturePyramid, ViT, get_vit_lr_decay_rate

__all__ = [
    "BACKBONE_REGISTRY",
    "FPN",
    "Backbone",
    "BasicBlock",
    "BasicStem",
    "BottleneckBlock",
    "ResNet",
    "ResNetBlockBase",
    "SimpleFeaturePyramid",
    "ViT",
    "get_vit_lr_decay_rate",
    "make_stage",
]

__getattr__ = missing_names(
    __name__,
    [
        "MViT",
        "RegNet",
        "SwinTransformer",
        "build_backbone",
        "build_resnet_backbone",
        "mvit",
        "regnet",
        "swin",
    ],
)
