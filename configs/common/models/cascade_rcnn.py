"""Cascade R-CNN on the parts of `faster_rcnn_fpn`: three box heads in a row, each asks for a better overlap."""

from detectron2.config import LazyCall as L
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNConvFCHead, FastRCNNOutputLayers

from loradet.detectors.feature_shape import feature_shape

from .faster_rcnn_fpn import model

_shared = model.roi_heads
model.roi_heads = L(CascadeROIHeads)(
    num_classes="${data.num_classes}",
    batch_size_per_image=_shared.batch_size_per_image,
    positive_fraction=_shared.positive_fraction,
    proposal_matchers=[
        L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False) for iou in (0.5, 0.6, 0.7)
    ],
    box_in_features=_shared.box_in_features,
    box_pooler=_shared.box_pooler,
    box_heads=[
        L(FastRCNNConvFCHead)(
            input_shape=L(feature_shape)(channels="${.....backbone.out_channels}", height=7, width=7),
            conv_dims=[],
            fc_dims=[1024, 1024],
        )
        for _ in range(3)
    ],
    box_predictors=[
        L(FastRCNNOutputLayers)(
            input_shape=L(feature_shape)(channels=1024),
            # Later stages are nearer to the object: their deltas are smaller, and weigh more.
            box2box_transform=L(Box2BoxTransform)(weights=[weight, weight, weight / 2, weight / 2]),
            num_classes="${...num_classes}",
            cls_agnostic_bbox_reg=True,
            test_score_thresh=0.05,
            test_nms_thresh=0.5,
            test_topk_per_image=100,
        )
        for weight in (10.0, 20.0, 30.0)
    ],
)
