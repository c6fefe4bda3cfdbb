"""First weights of a seed, against those recorded from Detectron2: two runs of one config then are one run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, FastRCNNOutputLayers, ResNet, SimpleFeaturePyramid, ViT
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from torch import nn

pytestmark = pytest.mark.golden

BOX = ShapeSpec(channels=8, height=3, width=3)


def resnet(**options) -> ResNet:
    stages = [
        ResNet.make_stage(BasicBlock, 2, in_channels=8, out_channels=8, norm="BN"),
        ResNet.make_stage(BottleneckBlock, 2, in_channels=8, out_channels=16, bottleneck_channels=4, norm="BN"),
    ]
    return ResNet(BasicStem(out_channels=8), stages, **options)


def vit() -> ViT:
    return ViT(
        img_size=64,
        patch_size=8,
        embed_dim=12,
        depth=2,
        num_heads=3,
        use_rel_pos=True,
        window_size=3,
        window_block_indexes=(0,),
        residual_block_indexes=(1,),
        pretrain_img_size=32,
    )


def zoo(file: str) -> nn.Module:
    cfg = model_zoo.get_config(f"common/models/{file}.py").model
    if "roi_heads" in cfg:
        [cfg.roi_heads.pop(x) for x in ("mask_in_features", "mask_pooler", "mask_head")]
    cfg.backbone.bottom_up.stages.depth = 18
    cfg.backbone.bottom_up.stages.pop("stride_in_1x1")
    if file == "retinanet":
        cfg.backbone.top_block.in_channels = 512
    return instantiate(cfg)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "ResNet with classifier": lambda: resnet(num_classes=3),
    "FPN": lambda: FPN(resnet(), ["res3"], 6, norm="LN", top_block=LastLevelP6P7(6, 6, in_feature="p3")),
    "RetinaNetHead": lambda: RetinaNetHead(input_shape=[BOX], num_classes=3, num_anchors=2, conv_dims=[6, 4]),
    "StandardRPNHead": lambda: StandardRPNHead(in_channels=8, num_anchors=3, conv_dims=(-1, 6)),
    "FastRCNNConvFCHead": lambda: FastRCNNConvFCHead(BOX, conv_dims=[4, 6], fc_dims=[5, 7], conv_norm="LN"),
    "FastRCNNOutputLayers": lambda: FastRCNNOutputLayers(
        BOX, box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)), num_classes=3
    ),
    "SimpleFeaturePyramid of ViT": lambda: SimpleFeaturePyramid(vit(), "last_feat", 6, [4.0, 2.0, 1.0, 0.5]),
}
ZOO = ("retinanet", "fcos", "mask_rcnn_fpn", "cascade_rcnn")


def along(tensor: torch.Tensor) -> float:
    flat = tensor.detach().double().flatten()
    return float(flat @ torch.arange(len(flat), dtype=torch.float64).cos())


def first_weights(build: Callable[[], nn.Module]) -> dict[str, float]:
    """The sum of each parameter along a wave, and the next random number, under seed 0."""
    torch.manual_seed(0)
    model = build()
    return {name: along(p) for name, p in model.named_parameters()} | {"next": float(torch.rand(()))}


@pytest.fixture(scope="module")
def recorded(golden_d2: Path) -> dict:
    return json.loads((golden_d2 / "first_weights.json").read_text())


@pytest.mark.parametrize("name", BUILDERS)
def test_first_weights_of_a_part(name, recorded):
    assert first_weights(BUILDERS[name]) == pytest.approx(recorded["parts"][name], abs=1e-5)


@pytest.mark.parametrize("file", ZOO)
def test_first_weights_of_a_whole_config(file, recorded):
    produced = first_weights(lambda: zoo(file))
    assert len(produced) == recorded["zoo"][file]["count"]
    assert sum(map(abs, produced.values())) == pytest.approx(recorded["zoo"][file]["sum"], rel=1e-6)
    assert produced["next"] == pytest.approx(recorded["zoo"][file]["next"], abs=1e-6)
