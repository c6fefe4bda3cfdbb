"""The common RetinaNets on a ViT and on a ResNet train, are evaluated, and leave what trains of them."""

import json

import pytest
import timm
import torch
from detectron2.config import LazyConfig, instantiate
from helpers.paths import TEST_CONFIGS
from helpers.train_tool import ROOT, arguments, lines, succeed
from safetensors.torch import save_file

from loradet.adapters import read_adapter
from loradet.backbones import TimmViT

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


def test_the_free_recipe_takes_patches_of_fourteen_pixels_and_trains(train_data, tmp_path):
    """A step on a small network with the layout of the published weights; those themselves need a network."""
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    published = timm.create_model("vit_small_patch14_reg4_dinov2.lvd142m", **sizes)
    weights = tmp_path / "model.safetensors"
    save_file(published.state_dict(), weights)
    # A file is taken as timm takes what it fetches.
    overlay = {"file": str(weights), "hf_hub_id": None}
    arguments_of_net = {"patch_size": 16, "img_size": 592, **sizes}
    name = "vit_small_patch14_reg4_dinov2.lvd142m"
    theirs = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments_of_net).state_dict()
    ours = TimmViT(name, weights=weights, **arguments_of_net).net.state_dict()
    assert ours["patch_embed.proj.weight"].shape[2:] == (16, 16)
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    assert torch.equal(ours["pos_embed"], published.state_dict()["pos_embed"])

    output = tmp_path / "run"
    words = [f"model.backbone.net.module.module.weights={weights}", "train.allow_random_frozen=False"]
    succeed(*arguments(train_data, output, *words, config=TEST_CONFIGS / "tiny_coco_apache.py"))
    assert 0 < lines(output)[0]["total_loss"] < 10
    info, trained = read_adapter(output / "adapter.safetensors")
    assert info["metadata"]["base_licences"] == [{"base": name, "licence": "apache-2.0"}]
    assert "not an open one" not in (output / "log.txt").read_text()
    of_net = {key.removeprefix("backbone.net.net.") for key in trained if key.startswith("backbone.net.")}
    assert {key.rpartition(".")[2] for key in of_net} == {"lora_a", "lora_b"}
    assert len(of_net) == 2 * 2 * 4


def test_the_free_recipe_starts_from_published_weights_alone():
    model = LazyConfig.load(str(ROOT / "configs" / "custom_coco_apache.py")).model
    network = model.backbone.net.module.module
    assert network.pretrained
    assert timm.models.get_pretrained_cfg(network.model_name).license == "apache-2.0"
    network.pretrained = False
    model.backbone.net = network
    with torch.device("meta"):
        backbone = instantiate(model.backbone)
    shapes = backbone.output_shape()
    assert sum(p.numel() for p in backbone.net.parameters()) == pytest.approx(22.1e6, rel=0.01)
    assert [shapes[name].stride for name in model.head_in_features] == list(model.anchor_generator.strides)
