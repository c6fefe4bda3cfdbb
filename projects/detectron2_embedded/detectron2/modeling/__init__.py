"""Backbones, necks and detectors. Classes take built objects and know nothing of configs."""

from detectron2._subset import missing_names
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY
from detectron2.modeling.backbone import (
    BACKBONE_REGISTRY,
    FPN,
    Backbone,
    ResNet,
    ResNetBlockBase,
    make_stage,
)
from detectron2.modeling.meta_arch import META_ARCH_REGISTRY, RetinaNet
from detectron2.modeling.postprocessing import detector_postprocess

__all__ = [
    "ANCHOR_GENERATOR_REGISTRY",
    "BACKBONE_REGISTRY",
    "FPN",
    "META_ARCH_REGISTRY",
    "Backbone",
    "ResNet",
    "ResNetBlockBase",
    "RetinaNet",
    "ShapeSpec",
    "detector_postprocess",
    "make_stage",
]

__getattr__ = missing_names(
    __name__,
    [
        # Two-stage detectors
        "GeneralizedRCNN",
        "ProposalNetwork",
        "PROPOSAL_GENERATOR_REGISTRY",
        "RPN_HEAD_REGISTRY",
        "ROI_BOX_HEAD_REGISTRY",
        "ROI_HEADS_REGISTRY",
        "ROI_KEYPOINT_HEAD_REGISTRY",
        "ROI_MASK_HEAD_REGISTRY",
        "BaseKeypointRCNNHead",
        "BaseMaskRCNNHead",
        "FastRCNNOutputLayers",
        "ROIHeads",
        "StandardROIHeads",
        "poolers",
        "proposal_generator",
        "roi_heads",
        "sampling",
        # Other detectors and segmentation
        "FCOS",
        "PanopticFPN",
        "SEM_SEG_HEADS_REGISTRY",
        "SemanticSegmentor",
        "mmdet_wrapper",
        "MMDetBackbone",
        "MMDetDetector",
        "DatasetMapperTTA",
        "GeneralizedRCNNWithTTA",
        "test_time_augmentation",
        # Other backbones
        "MViT",
        "SimpleFeaturePyramid",
        "SwinTransformer",
        "ViT",
        "get_vit_lr_decay_rate",
        # Built from yacs configs
        "build_anchor_generator",
        "build_backbone",
        "build_box_head",
        "build_keypoint_head",
        "build_mask_head",
        "build_model",
        "build_proposal_generator",
        "build_resnet_backbone",
        "build_roi_heads",
        "build_rpn_head",
        "build_sem_seg_head",
    ],
)
