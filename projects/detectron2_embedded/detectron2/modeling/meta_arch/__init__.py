"""Whole detectors."""

from detectron2._subset import missing_names
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN, ProposalNetwork
from detectron2.modeling.meta_arch.retinanet import RetinaNet

__all__ = ["FCOS", "META_ARCH_REGISTRY", "DenseDetector", "GeneralizedRCNN", "ProposalNetwork", "RetinaNet"]

__getattr__ = missing_names(
    __name__,
    [
        "PanopticFPN",
        "SEM_SEG_HEADS_REGISTRY",
        "SemanticSegmentor",
        "build_model",
        "build_sem_seg_head",
        "panoptic_fpn",
        "semantic_seg",
    ],
)
