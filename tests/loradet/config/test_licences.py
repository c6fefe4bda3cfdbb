"""Licences of what a training starts from: said once at its start, and kept in its adapter."""

import re

import pytest
import torch
from helpers.paths import TEST_CONFIGS
from helpers.train_tool import arguments, succeed
from omegaconf import OmegaConf

from loradet.adapters import read_adapter
from loradet.backbones import TimmBackbone
from loradet.config.licences import BaseLicence, base_licences, read_licences, warn_of_licences
from loradet.datasets.synthetic import generate


def config(start: str = "", **call):
    network = {"_target_": "loradet.backbones.TimmBackbone", **call}
    return OmegaConf.create({"model": {"_target_": "a.Detector", "net": network}, "train": {"init_checkpoint": start}})


@pytest.mark.parametrize(
    ("call", "start", "found"),
    [
        ({"model_name": "convnext_small.dinov3_lvd1689m", "pretrained": True}, "", "dinov3-license"),
        ({"model_name": "hf-hub:timm/convnext_tiny.eupe_lvd1689m", "pretrained": True}, "",
         "fair-noncommercial-research-license"),
        ({"model_name": "hf-hub:somebody/else", "pretrained": True}, "", None),
        ({"model_name": "vit_small_patch14_reg4_dinov2.lvd142m", "pretrained": True}, "", "apache-2.0"),
        ({"model_name": "vit_base_patch14_reg1_tipsv2.webli", "pretrained": True}, "", "apache-2.0"),
        # A file is what the name's tag says, or a name that stands for such weights alone.
        ({"model_name": "convnext_small.dinov3_lvd1689m", "weights": "/a/b.pth"}, "", "dinov3-license"),
        ({"model_name": "vit_small_patch16_dinov3", "weights": "/a/b.pth"}, "", "dinov3-license"),
        ({"model_name": "convnext_atto", "weights": "/a/mine.pth"}, "", None),
        ({"model_name": "convnext_atto", "weights": "asset://convnext_atto_synthetic.safetensors"}, "", "apache-2.0"),
        ({"model_name": "convnext_small.dinov3_lvd1689m"}, "run/model_best.pth", "dinov3-license"),
    ],
)  # fmt: skip
def test_of_a_network(call, start, found):
    assert base_licences(config(start, **call))[0].licence == found


def test_random_weights_have_none_and_each_is_named_once():
    assert base_licences(config(model_name="convnext_small.dinov3_lvd1689m")) == []
    cfg = config("asset://head.safetensors", model_name="resnet50.tv_in1k", pretrained=True)
    cfg.model.other = cfg.model.net
    assert base_licences(cfg) == [
        BaseLicence("resnet50.tv_in1k", "bsd-3-clause"),
        BaseLicence("head.safetensors", "apache-2.0"),
    ]


def test_licences_that_are_no_open_ones_are_a_line_each(caplog):
    warn_of_licences(config(model_name="resnet50.tv_in1k", pretrained=True))
    assert not caplog.messages
    warn_of_licences(config(model_name="convnext_tiny.eupe_lvd1689m", pretrained=True))
    (message,) = caplog.messages
    assert "FAIR Noncommercial Research License, which is not an open one (no commercial use)" in message
    assert "https://huggingface.co/timm/convnext_tiny.eupe_lvd1689m" in message


def test_metadata_of_another_hand():
    for other in (None, "dinov3", [1, {"base": 3}], {"base": "a"}):
        assert read_licences({"base_licences": other}) == []
    assert read_licences({"base_licences": [{"base": "a", "licence": None}]}) == [BaseLicence("a", None)]


def test_a_training_says_it_at_its_start_and_its_adapter_keeps_it(tmp_path):
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    name = "convnext_tiny.dinov3_lvd1689m"
    torch.save(TimmBackbone(name, **sizes).net.state_dict(), tmp_path / "dinov3.pth")
    data = generate(tmp_path / "data", size=(48, 64), counts={"train": 4})
    network = "model.backbone.bottom_up.module.module"
    words = [f"{network}.model_name={name}", f"+{network}.weights={tmp_path / 'dinov3.pth'}", "dataloader.val=null"]
    words += ["dataloader.test=null", "train.eval_splits=[]", "train.max_iter=1"]
    succeed(*arguments(data, tmp_path / "run", *words, config=TEST_CONFIGS / "tiny.py"))
    text = (tmp_path / "run" / "log.txt").read_text()
    assert len(re.findall(rf"WARNING Licence of {name}: DINOv3 License, which is not an open one", text)) == 1
    metadata = read_adapter(tmp_path / "run" / "adapter.safetensors")[0]["metadata"]
    assert metadata["base_licences"] == [{"base": name, "licence": "dinov3-license"}]
