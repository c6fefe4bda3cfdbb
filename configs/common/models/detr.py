"""DETR on ResNet-50, as published: 6 + 6 layers, 100 queries; stem and first stage frozen, no dilation.

Published weights: `train.init_checkpoint=detr-r50-e632da11.pth`; with `model.categories = L(coco_categories)()` and the
80 classes of COCO, all of them load. ImageNet weights alone: `model.backbone.module.weights=resnet50.pth`. From random
weights, batch norm trains: `model.backbone = L(TorchvisionResNet)(norm="BN")`.
"""

from detectron2.config import LazyCall as L

from loradet.adapters import freeze
from loradet.detectors.detr import (
    DETR,
    DetrTransformer,
    HungarianMatcher,
    PositionEmbeddingSine,
    SetCriterion,
    TorchvisionResNet,
)

model = L(DETR)(
    backbone=L(freeze)(
        module=L(TorchvisionResNet)(depth=50, out_features=["res5"], norm="FrozenBN", weights=None),
        unfreeze=["layer2", "layer3", "layer4"],
    ),
    in_feature=None,  # the only map of the backbone
    position_embedding=L(PositionEmbeddingSine)(num_pos_feats=128, temperature=10000.0, normalize=True),
    transformer=L(DetrTransformer)(
        hidden_dim=256,
        num_heads=8,
        num_encoder_layers=6,
        num_decoder_layers=6,
        dim_feedforward=2048,
        dropout=0.1,
        activation="relu",
        pre_norm=False,
    ),
    criterion=L(SetCriterion)(
        matcher=L(HungarianMatcher)(cost_class=1.0, cost_bbox=5.0, cost_giou=2.0),
        weight_class=1.0,
        weight_bbox=5.0,
        weight_giou=2.0,
        eos_coef=0.1,
    ),
    num_classes="${data.num_classes}",
    num_queries=100,
    aux_loss=True,
    categories=None,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)
