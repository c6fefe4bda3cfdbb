"""DETR (https://arxiv.org/abs/2005.12872): a transformer that predicts a set of boxes, without anchors or NMS."""

from .box_iou import generalized_box_iou
from .categories import CategoryIds, coco_categories
from .criterion import SetCriterion
from .features import DetrBackbone, padding_mask
from .matcher import DetrTargets, HungarianMatcher, NonFiniteCostError
from .meta_arch import DETR
from .position_embedding import PositionEmbeddingSine
from .torchvision_resnet import TorchvisionResNet
from .transformer import DetrTransformer
from .weights import LoadedWeights, load_detr_weights

__all__ = [
    "DETR",
    "CategoryIds",
    "DetrBackbone",
    "DetrTargets",
    "DetrTransformer",
    "HungarianMatcher",
    "LoadedWeights",
    "NonFiniteCostError",
    "PositionEmbeddingSine",
    "SetCriterion",
    "TorchvisionResNet",
    "coco_categories",
    "generalized_box_iou",
    "load_detr_weights",
    "padding_mask",
]
