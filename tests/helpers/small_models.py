"""Every backbone × detector × way of adapting, small enough for tests: 64×64 pixels, 8 to 32 channels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import SimpleFeaturePyramid
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.backbone.vit import ViT
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNConvFCHead, FastRCNNOutputLayers, StandardROIHeads
from detectron2.structures import Boxes, Instances
from torch import nn

from loradet.adapters import adaptformer, freeze, lora, mona
from loradet.backbones import TimmBackbone, TimmViT, VisionMamba
from loradet.detectors.detr import (
    DETR,
    DetrTransformer,
    HungarianMatcher,
    PositionEmbeddingSine,
    SetCriterion,
    TorchvisionResNet,
)

CLASSES = 3
WIDTH = 16
PIXELS = {"pixel_mean": [110.0, 115.0, 120.0], "pixel_std": [60.0, 60.0, 60.0]}


@dataclass(frozen=True)
class SmallBackbone:
    """A backbone, and what a config would say to adapt it.

    Attributes:
        build: makes it, with random weights, for the maps that a detector takes.
        targets: layers that get LoRA.
        last: what partial fine-tuning unfreezes.
        maps: outputs of strides 4, 8, 16 and 32; a plain backbone has one, of stride 16.
    """

    build: Callable[[Sequence[str]], Backbone]
    targets: Sequence[str]
    last: str
    maps: Sequence[str]


# timm starts layer scales at 1e-6 and last norms of residual branches at 0, which hides what the blocks do.
def _convnext(maps: Sequence[str]) -> Backbone:
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    return TimmBackbone("convnext_atto", out_features=maps, ls_init_value=0.5, **sizes)


def _resnet(maps: Sequence[str]) -> Backbone:
    sizes = {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32), "stem_width": 8}
    return TimmBackbone("resnet18", out_features=maps, zero_init_last=False, **sizes)


def _torchvision_resnet(maps: Sequence[str]) -> Backbone:
    return TorchvisionResNet(depth=18, out_features=maps, norm="BN")


def _vit(_: Sequence[str]) -> Backbone:
    return TimmViT("vit_tiny_patch16_224", embed_dim=32, depth=2, num_heads=2, img_size=64)


def _vitdet(_: Sequence[str]) -> Backbone:
    return ViT(
        img_size=64,
        embed_dim=32,
        depth=2,
        num_heads=2,
        use_rel_pos=True,
        window_size=3,
        window_block_indexes=(0,),
        pretrain_img_size=64,
    )


def _mamba(_: Sequence[str]) -> Backbone:
    net = VisionMamba(random_weights=True, img_size=64, embed_dim=16, depth=2, d_state=4)
    for layer in net.layers:  # what a fresh mixer adds to its patches is too little to see
        for linear in (layer.mixer.in_proj, layer.mixer.x_proj, layer.mixer.x_proj_b, layer.mixer.out_proj):
            nn.init.normal_(linear.weight, std=0.2)
    return net


STAGES = ["stage0", "stage1", "stage2", "stage3"]
MAMBA_PROJECTIONS = ["in_proj", "out_proj", "x_proj", "x_proj_b", "dt_proj", "dt_proj_b"]
BACKBONES = {
    "ConvNeXt": SmallBackbone(_convnext, ["mlp.fc1", "mlp.fc2"], "stages_3", STAGES),
    "ResNet": SmallBackbone(_resnet, ["conv2"], "layer4", STAGES),
    "ViT": SmallBackbone(_vit, ["attn.qkv", "mlp.fc1", "mlp.fc2"], "blocks.1", ["block1"]),
    "ViTDet-ViT": SmallBackbone(_vitdet, ["attn.qkv", "attn.proj"], "blocks.1", ["last_feat"]),
    "VisionMamba": SmallBackbone(_mamba, MAMBA_PROJECTIONS, "layers.1", ["last_feat"]),
}
TORCHVISION_RESNET = SmallBackbone(_torchvision_resnet, ["conv2"], "layer2", ["res3"])


def _probe(net: Backbone, _: SmallBackbone) -> Backbone:
    return freeze(net, unfreeze=[])


def _lora(net: Backbone, kind: SmallBackbone) -> Backbone:
    return lora(freeze(net, unfreeze=[]), targets=kind.targets, rank=2, alpha=4.0)


def _partial(net: Backbone, kind: SmallBackbone) -> Backbone:
    return freeze(net, unfreeze=[kind.last])


def _full(net: Backbone, _: SmallBackbone) -> Backbone:
    return net


def _mona(net: Backbone, _: SmallBackbone) -> Backbone:
    return mona(freeze(net, unfreeze=[]), rank=2)


def _adaptformer(net: Backbone, _: SmallBackbone) -> Backbone:
    return adaptformer(freeze(net, unfreeze=[]), rank=2)


REGIMES = {"probe": _probe, "LoRA": _lora, "partial": _partial, "full": _full}
BLOCK_REGIMES = {"Mona": _mona, "AdaptFormer": _adaptformer}  # of backbones with blocks of timm


def _pyramid(net: Backbone, finest: int, top: nn.Module) -> Backbone:
    """Maps p<finest> to p5, and what the top block adds: an FPN, or a SimpleFeaturePyramid on a plain backbone."""
    maps = list(net.output_shape())
    if len(maps) == 1:
        return SimpleFeaturePyramid(net, maps[0], WIDTH, [4.0, 2.0, 1.0, 0.5][finest - 2 :], top_block=top)
    return FPN(net, maps, WIDTH, top_block=top)


def _anchors(strides: Sequence[int]) -> DefaultAnchorGenerator:
    sizes = [[min(4.0 * stride, 64.0)] for stride in strides]
    return DefaultAnchorGenerator(sizes=sizes, aspect_ratios=[0.5, 1.0], strides=strides, offset=0.5)


def retinanet(net: Backbone) -> nn.Module:
    """P3 to P7."""
    return RetinaNet(
        backbone=_pyramid(net, 3, LastLevelP6P7(WIDTH, WIDTH, in_feature="p5")),
        head=RetinaNetHead(
            input_shape=[ShapeSpec(channels=WIDTH)] * 5, num_classes=CLASSES, num_anchors=2, conv_dims=[WIDTH]
        ),
        anchor_generator=_anchors([8, 16, 32, 64, 128]),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        num_classes=CLASSES,
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        test_score_thresh=0.0,
        test_topk_candidates=20,
        **PIXELS,
    )


def _two_stage(net: Backbone, roi_heads: StandardROIHeads) -> nn.Module:
    rpn = RPN(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=StandardRPNHead(in_channels=WIDTH, num_anchors=2),
        anchor_generator=_anchors([4, 8, 16, 32, 64]),
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=4096,  # all of them, so that every level of the pyramid has a say in the loss
        positive_fraction=0.5,
        pre_nms_topk=(50, 20),
        post_nms_topk=(20, 10),
    )
    return GeneralizedRCNN(
        backbone=_pyramid(net, 2, LastLevelMaxPool()), proposal_generator=rpn, roi_heads=roi_heads, **PIXELS
    )


def _roi_parts() -> dict[str, Any]:
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    return {
        "num_classes": CLASSES,
        "batch_size_per_image": 16,
        "positive_fraction": 0.25,
        "box_in_features": ["p2", "p3", "p4", "p5"],
        "box_pooler": ROIPooler(3, scales, 0, "ROIAlignV2", canonical_box_size=32),
    }


def _box_head() -> FastRCNNConvFCHead:
    return FastRCNNConvFCHead(ShapeSpec(WIDTH, 3, 3), conv_dims=[], fc_dims=[32, 32])


def _predictor(weights: tuple[float, ...], cls_agnostic: bool) -> FastRCNNOutputLayers:
    return FastRCNNOutputLayers(
        ShapeSpec(channels=32),
        box2box_transform=Box2BoxTransform(weights),
        num_classes=CLASSES,
        cls_agnostic_bbox_reg=cls_agnostic,
        test_score_thresh=0.0,
        test_topk_per_image=20,
    )


def faster_rcnn(net: Backbone) -> nn.Module:
    """P2 to P6, one box head."""
    heads = StandardROIHeads(
        box_head=_box_head(),
        box_predictor=_predictor((10.0, 10.0, 5.0, 5.0), False),
        proposal_matcher=Matcher([0.5], [0, 1]),
        **_roi_parts(),
    )
    return _two_stage(net, heads)


def cascade_rcnn(net: Backbone) -> nn.Module:
    """P2 to P6, three box heads."""
    heads = CascadeROIHeads(
        box_heads=[_box_head() for _ in range(3)],
        box_predictors=[_predictor((w, w, w / 2, w / 2), True) for w in (10.0, 20.0, 30.0)],
        proposal_matchers=[Matcher([iou], [0, 1]) for iou in (0.5, 0.6, 0.7)],
        **_roi_parts(),
    )
    return _two_stage(net, heads)


def detr(net: Backbone) -> nn.Module:
    """One map."""
    return DETR(
        backbone=net,
        in_feature=next(iter(net.output_shape())),
        position_embedding=PositionEmbeddingSine(num_pos_feats=WIDTH // 2, temperature=10000.0, normalize=True),
        transformer=DetrTransformer(
            hidden_dim=WIDTH, num_heads=2, num_encoder_layers=1, num_decoder_layers=2, dim_feedforward=32, dropout=0.1
        ),
        criterion=SetCriterion(matcher=HungarianMatcher(cost_class=1.0, cost_bbox=5.0, cost_giou=2.0)),
        num_classes=CLASSES,
        num_queries=7,
        **PIXELS,
    )


# Which of the maps of strides 4, 8, 16 and 32 a detector takes.
DETECTORS = {
    "RetinaNet": (retinanet, slice(1, 4)),
    "Faster R-CNN": (faster_rcnn, slice(0, 4)),
    "Cascade R-CNN": (cascade_rcnn, slice(0, 4)),
    "DETR": (detr, slice(3, 4)),
}


def build(backbone: SmallBackbone, detector: str, regime: str, *, seed: int = 0) -> nn.Module:
    """A detector whose base weights are always the same, and whose neck, head and LoRA depend on the seed."""
    make, wanted = DETECTORS[detector]
    torch.manual_seed(0)
    net = backbone.build(backbone.maps if len(backbone.maps) == 1 else backbone.maps[wanted])
    torch.manual_seed(seed)
    return make({**REGIMES, **BLOCK_REGIMES}[regime](net, backbone))


def item(height: int, width: int, boxes: list[list[float]], classes: list[int], seed: int) -> dict[str, Any]:
    """An image of noise with bright boxes, as a detector takes it; results are wanted at twice the size."""
    noise = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 160, (3, height, width), dtype=torch.uint8, generator=noise)
    for left, top, right, bottom in boxes:
        image[:, int(top) : int(bottom), int(left) : int(right)] += 90
    truth = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=torch.tensor(classes))
    return {"image": image, "instances": truth, "height": 2 * height, "width": 2 * width}


def batch() -> list[dict[str, Any]]:
    """Two images of different size, with an object of every class."""
    return [
        item(64, 64, [[4, 6, 30, 40], [34, 20, 62, 60]], [0, 2], seed=1),
        item(48, 64, [[8, 8, 24, 20], [20, 10, 60, 46]], [1, 2], seed=2),
    ]
