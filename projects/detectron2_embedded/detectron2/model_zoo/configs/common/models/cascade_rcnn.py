"""Cascade R-CNN, https://arxiv.org/abs/1712.00726: Mask R-CNN with three box stages of rising overlap.

Its keys `mask_…` are those of `mask_rcnn_fpn.py`, and go as there.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNConvFCHead, FastRCNNOutputLayers

from .mask_rcnn_fpn import model

# Overlap that makes a proposal positive, and weights of centre and size in its deltas, stage by stage.
_STAGES = ((0.5, 10, 5), (0.6, 20, 10), (0.7, 30, 15))

for _key in ("box_head", "box_predictor", "proposal_matcher"):
    model.roi_heads.pop(_key)
model.roi_heads._target_ = CascadeROIHeads
model.roi_heads.box_heads = [
    L(FastRCNNConvFCHead)(input_shape=ShapeSpec(channels=256, height=7, width=7), conv_dims=[], fc_dims=[1024, 1024])
    for _ in _STAGES
]
model.roi_heads.box_predictors = [
    L(FastRCNNOutputLayers)(
        input_shape=ShapeSpec(channels=1024),
        num_classes="${...num_classes}",
        cls_agnostic_bbox_reg=True,
        box2box_transform=L(Box2BoxTransform)(weights=(center, center, size, size)),
        test_score_thresh=0.05,
    )
    for _, center, size in _STAGES
]
model.roi_heads.proposal_matchers = [
    L(Matcher)(thresholds=[overlap], labels=[0, 1], allow_low_quality_matches=False) for overlap, _, _ in _STAGES
]
