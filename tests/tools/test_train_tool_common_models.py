"""The common RetinaNets on a ViT and on a ResNet train, are evaluated, and leave what trains of them."""

import json

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from helpers.paths import TEST_CONFIGS
from helpers.train_tool import ROOT, arguments, lines, succeed

from loradet.adapters import read_adapter

MODELS = ROOT / "configs" / "common" / "models"


@pytest.mark.parametrize("name", ["vit", pytest.param("resnet", marks=pytest.mark.slow)])
def test_two_iterations(name, train_data, tmp_path):
    output = tmp_path / "run"
    succeed(*arguments(train_data, output, config=TEST_CONFIGS / f"tiny_retinanet_{name}.py"))
    losses = [line["total_loss"] for line in lines(output) if "total_loss" in line]
    assert len(losses) == 2
    assert all(0 < loss < 10 for loss in losses)
    assert "coco/bbox_mAP" in json.loads((output / "val_metrics.json").read_text(encoding="utf-8"))
    trained = read_adapter(output / "adapter.safetensors")[1].keys()
    if name == "vit":  # all of it
        assert {"backbone.net.net.patch_embed.proj.weight", "backbone.simfp_3.0.weight"} <= trained
        return
    backbone = {key for key in trained if key.startswith("backbone.bottom_up.")}
    assert {key.split(".")[3] for key in backbone} == {"layer2", "layer3", "layer4"}
    assert not any("bn" in key for key in backbone)


def test_the_pyramid_of_a_vit_has_the_strides_of_its_anchors():
    cfg = LazyConfig.load(str(TEST_CONFIGS / "tiny_retinanet_vit.py"))
    backbone = instantiate(cfg.model.backbone)
    shapes = backbone.output_shape()
    assert [shapes[name].stride for name in cfg.model.head_in_features] == list(cfg.model.anchor_generator.strides)
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(maps[name].shape[-2:]) for name in ("p3", "p4", "p5", "p6")] == [(8, 12), (4, 6), (2, 3), (1, 2)]


@pytest.mark.parametrize(("name", "width"), [("vit", 768), ("resnet", 2048)])
def test_the_configs_fit_their_own_backbones(name, width):
    model = LazyConfig.load(str(MODELS / f"retinanet_{name}.py")).model
    node = model.backbone.net if name == "vit" else model.backbone.bottom_up.module
    node.pretrained = False
    with torch.device("meta"):
        net = instantiate(node)
    if name == "vit":
        assert net.output_shape()[model.backbone.in_feature].channels == width
    else:
        assert net.output_shape()["stage3"].channels == width
        assert model.backbone.in_features[-1] == "stage3"
