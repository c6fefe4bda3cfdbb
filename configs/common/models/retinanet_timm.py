"""RetinaNet with a feature pyramid on any timm backbone: P3–P5 from stages 1–3, P6 and P7 above them."""

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead

from loradet.backbones import TimmBackbone
from loradet.detectors.feature_shape import feature_shape
from loradet.detectors.pyramid import pyramid

model = L(RetinaNet)(
    backbone=L(pyramid)(
        bottom_up=L(TimmBackbone)(
            model_name="convnext_small.dinov3_lvd1689m",
            pretrained=True,
            out_features=["stage1", "stage2", "stage3"],
        ),
        in_features=["stage1", "stage2", "stage3"],
        out_channels=256,
        extra_levels=2,
        extra_from=None,  # the last one of in_features
        top_block=dict(in_channels=None, out_channels=None, in_feature=None),  # older configs say it; none has to
    ),
    head=L(RetinaNetHead)(
        input_shape=[L(feature_shape)(channels="${....backbone.out_channels}") for _ in range(5)],
        num_classes="${..num_classes}",
        conv_dims=[256, 256, 256, 256],
        prior_prob=0.01,
        num_anchors=9,
    ),
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=[[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in [32, 64, 128, 256, 512]],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32, 64, 128],
        offset=0.0,
    ),
    box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
    anchor_matcher=L(Matcher)(thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True),
    num_classes="${data.num_classes}",
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    focal_loss_alpha=0.25,
    focal_loss_gamma=2.0,
    smooth_l1_beta=0.0,
    box_reg_loss_type="smooth_l1",
    test_score_thresh=0.05,
    test_topk_candidates=1000,
    test_nms_thresh=0.5,
    max_detections_per_image=100,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)
