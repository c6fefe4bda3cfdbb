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
    SimpleFeaturePyramid,
    ViT,
    get_vit_lr_decay_rate,
    make_stage,
)
from detectron2.modeling.meta_arch import FCOS, META_ARCH_REGISTRY, GeneralizedRCNN, ProposalNetwork, RetinaNet
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    FastRCNNOutputLayers,
    ROIHeads,
    StandardROIHeads,
)

__all__ = [
    "ANCHOR_GENERATOR_REGISTRY",
    "BACKBONE_REGISTRY",
    "FCOS",
    "FPN",
    "META_ARCH_REGISTRY",
    "PROPOSAL_GENERATOR_REGISTRY",
    "ROI_BOX_HEAD_REGISTRY",
    "ROI_HEADS_REGISTRY",
    "RPN_HEAD_REGISTRY",
    "Backbone",
    "FastRCNNOutputLayers",
    "GeneralizedRCNN",
    "ProposalNetwork",
    "ROIHeads",
    "ResNet",
    "ResNetBlockBase",
    "RetinaNet",
    "ShapeSpec",
    "SimpleFeaturePyramid",
    "StandardROIHeads",
    "ViT",
    "detector_postprocess",
    "get_vit_lr_decay_rate",
    "make_stage",
]

__getattr__ = missing_names(
    __name__,
    [
        # Masks and keypoints of two-stage detectors
        "ROI_KEYPOINT_HEAD_REGISTRY",
        "ROI_MASK_HEAD_REGISTRY",
        "BaseKeypointRCNNHead",
        "BaseMaskRCNNHead",
        # Other detectors and segmentation
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
        "SwinTransformer",
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
