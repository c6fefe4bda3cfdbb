"""FCOS, https://arxiv.org/abs/2006.09214, on RetinaNet's backbone."""

from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead

from .retinanet import model

for _key in ("anchor_generator", "anchor_matcher", "box2box_transform", "input_format"):
    model.pop(_key)
model._target_ = FCOS
model.test_score_thresh = 0.2  # of the mean of two scores
model.test_nms_thresh = 0.6

# P6 and P7 come from P5.
model.backbone.top_block.in_feature = "p5"
model.backbone.top_block.in_channels = 256

model.head.pop("num_anchors")
model.head._target_ = FCOSHead
model.head.norm = "GN"
