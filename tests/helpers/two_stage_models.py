"""Small two-stage detectors and inputs for them."""

from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, GeneralizedRCNN, ResNet, StandardROIHeads
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNConvFCHead, FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

CLASSES = 3
LEVELS = ["p3", "p4", "p5"]


def build_rpn(**options: Any) -> RPN:
    defaults = dict(
        in_features=LEVELS,
        head=StandardRPNHead(in_channels=8, num_anchors=2),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[16], [32], [64]], aspect_ratios=[0.5, 1.0], strides=[8, 16, 32], offset=0.5
        ),
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=32,
        positive_fraction=0.5,
        pre_nms_topk=(100, 50),
        post_nms_topk=(40, 20),
    )
    return RPN(**{**defaults, **options})


def build_predictor(**options: Any) -> FastRCNNOutputLayers:
    defaults = dict(
        input_shape=ShapeSpec(channels=16),
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        num_classes=CLASSES,
    )
    return FastRCNNOutputLayers(**{**defaults, **options})


def build_roi_heads(stages: int = 1, predictor: dict | None = None, **options: Any) -> StandardROIHeads:
    """Standard heads for one stage, a cascade for more."""
    shared = dict(
        num_classes=CLASSES,
        batch_size_per_image=16,
        positive_fraction=0.25,
        box_in_features=LEVELS,
        box_pooler=ROIPooler(4, [1 / 8, 1 / 16, 1 / 32], 0, "ROIAlignV2", canonical_box_size=56),
    )
    agnostic = {"cls_agnostic_bbox_reg": stages > 1} | (predictor or {})
    heads = [FastRCNNConvFCHead(ShapeSpec(8, 4, 4), conv_dims=[8], fc_dims=[16]) for _ in range(stages)]
    predictors = [build_predictor(**agnostic) for _ in range(stages)]
    matchers = [Matcher([0.5 + 0.1 * k], [0, 1]) for k in range(stages)]
    if stages == 1:
        own = dict(box_head=heads[0], box_predictor=predictors[0], proposal_matcher=matchers[0])
        return StandardROIHeads(**{**shared, **own, **options})
    own = dict(box_heads=heads, box_predictors=predictors, proposal_matchers=matchers)
    return CascadeROIHeads(**{**shared, **own, **options})


def build(stages: int = 1, rpn: dict | None = None, predictor: dict | None = None, **heads: Any) -> GeneralizedRCNN:
    torch.manual_seed(0)
    blocks = [
        ResNet.make_stage(BasicBlock, 1, in_channels=8, out_channels=8, stride=1, norm="FrozenBN"),
        ResNet.make_stage(BasicBlock, 1, in_channels=8, out_channels=16, stride=2, norm="FrozenBN"),
    ]
    bottom_up = ResNet(BasicStem(out_channels=8, norm="FrozenBN"), blocks, out_features=["res3"])
    return GeneralizedRCNN(
        backbone=FPN(bottom_up, ["res3"], 8, top_block=LastLevelP6P7(16, 8, in_feature="res3")),
        proposal_generator=build_rpn(**(rpn or {})),
        roi_heads=build_roi_heads(stages, predictor, **heads),
        pixel_mean=[100.0, 110.0, 120.0],
        pixel_std=[50.0, 50.0, 50.0],
        input_format="BGR",
    )


def item(boxes: list[list[float]], size: tuple[int, int] = (48, 64), seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    truth = Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.arange(len(boxes)) % CLASSES)
    return {"image": image, "instances": truth}


def losses_of(model: GeneralizedRCNN, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    with EventStorage():
        return model.train()(items)
