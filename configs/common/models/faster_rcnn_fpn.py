"""Faster R-CNN with a feature pyramid on ResNet-50, as Detectron2 has it: stem, first stage and norms are frozen.

ImageNet weights are a local file, in torchvision's names or in Detectron2's: `model.backbone.bottom_up.module.weights`.
MSRA's (R-50.pkl) and whole detectors of Detectron2's model zoo, which go into `train.init_checkpoint`, are converted by
loradet weights convert, take BGR and have their strides elsewhere. They want, below `model`,
`backbone.bottom_up.module.net.stages.stride_in_1x1=True`, `input_format=BGR`, `pixel_mean=[103.53,116.28,123.675]` and
`pixel_std=[1.0,1.0,1.0]`. From random weights, batch norm trains: `stem.norm=BN` there, and nothing frozen.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers, StandardROIHeads

from loradet.adapters import freeze
from loradet.backbones.resnet_stages import resnet_stages
from loradet.backbones.resnet_weights import resnet_with_weights
from loradet.detectors.feature_shape import feature_shape
from loradet.detectors.pyramid import pyramid

model = L(GeneralizedRCNN)(
    backbone=L(pyramid)(
        bottom_up=L(freeze)(
            module=L(resnet_with_weights)(
                net=L(ResNet)(
                    stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
                    stages=L(resnet_stages)(depth=50, stride_in_1x1=False, norm="${..stem.norm}"),
                    out_features=["res2", "res3", "res4", "res5"],
                ),
                weights=None,
            ),
            unfreeze=["res3", "res4", "res5"],
        ),
        in_features=None,  # all of the backbone's: strides 4 to 32
        out_channels=256,
        extra_levels=1,
    ),
    proposal_generator=L(RPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(StandardRPNHead)(in_channels="${...backbone.out_channels}", num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32], [64], [128], [256], [512]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=[2000, 1000],
        post_nms_topk=[1000, 1000],
        nms_thresh=0.7,
    ),
    roi_heads=L(StandardROIHeads)(
        num_classes="${data.num_classes}",
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=L(ROIPooler)(
            output_size=7, scales=[1 / 4, 1 / 8, 1 / 16, 1 / 32], sampling_ratio=0, pooler_type="ROIAlignV2"
        ),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=L(feature_shape)(channels="${....backbone.out_channels}", height=7, width=7),
            conv_dims=[],
            fc_dims=[1024, 1024],
        ),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=L(feature_shape)(channels=1024),
            box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
            num_classes="${..num_classes}",
            test_score_thresh=0.05,
            test_nms_thresh=0.5,
            test_topk_per_image=100,
        ),
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)
