"""The second stage of two-stage detectors."""

from detectron2._subset import missing_names
from detectron2.modeling.roi_heads.box_head import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead
from detectron2.modeling.roi_heads.cascade_rcnn import CascadeROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.roi_heads import ROI_HEADS_REGISTRY, ROIHeads, StandardROIHeads

__all__ = [
    "ROI_BOX_HEAD_REGISTRY",
    "ROI_HEADS_REGISTRY",
    "CascadeROIHeads",
    "FastRCNNConvFCHead",
    "FastRCNNOutputLayers",
    "ROIHeads",
    "StandardROIHeads",
]

__getattr__ = missing_names(
    __name__,
    [
        # Masks, keypoints, rotated boxes
        "ROI_KEYPOINT_HEAD_REGISTRY",
        "ROI_MASK_HEAD_REGISTRY",
        "BaseKeypointRCNNHead",
        "BaseMaskRCNNHead",
        "KRCNNConvDeconvUpsampleHead",
        "MaskRCNNConvUpsampleHead",
        "RROIHeads",
        "keypoint_head",
        "mask_head",
        "rotated_fast_rcnn",
        "select_foreground_proposals",
        # One map and a ResNet stage as head
        "Res5ROIHeads",
        # Built from yacs configs
        "build_box_head",
        "build_keypoint_head",
        "build_mask_head",
        "build_roi_heads",
    ],
)
