"""DETR (https://arxiv.org/abs/2005.12872): a transformer that predicts a set of boxes, without anchors or NMS."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.detectors.detr.box_iou import generalized_box_iou
    from loradet.detectors.detr.categories import CategoryIds, coco_categories
    from loradet.detectors.detr.criterion import SetCriterion
    from loradet.detectors.detr.features import DetrBackbone, padding_mask
    from loradet.detectors.detr.matcher import DetrTargets, HungarianMatcher, NonFiniteCostError
    from loradet.detectors.detr.meta_arch import DETR
    from loradet.detectors.detr.position_embedding import PositionEmbeddingSine
    from loradet.detectors.detr.torchvision_resnet import TorchvisionResNet
    from loradet.detectors.detr.transformer import DetrTransformer
    from loradet.detectors.detr.weights import LoadedWeights, load_detr_weights
else:
    __getattr__, __dir__ = lazy_names(__name__)

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
