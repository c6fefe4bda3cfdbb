import json

import pytest
import safetensors.torch
import timm
import torch
from detectron2.modeling.backbone import SimpleFeaturePyramid
from helpers.adapter_nets import Backbone, Detector, randomize_deltas, seeded
from helpers.small_models import detr
from torch import nn

from loradet.adapters import AdapterError, export_peft, freeze, lora, read_adapter, save_adapter
from loradet.backbones import TimmBackbone, TimmViT

# Layer scale of 1: with the usual 1e-6 of an untrained ConvNeXt no delta would show in the features.
NETWORK = dict(model_name="convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), ls_init_value=1.0)
LAYERS = [f"stages_{stage}.blocks.0.mlp.{fc}" for fc in ("fc1", "fc2") for stage in range(4)]
IMAGES = torch.linspace(-2, 2, 2 * 3 * 64 * 64).view(2, 3, 64, 64)


def timm_network(model_name: str, **options) -> nn.Module:
    """The plain network, without loradet."""
    indices = (2, 3, 4) if model_name == "resnet18" else (1, 2, 3)
    return timm.create_model(model_name, features_only=True, out_indices=indices, **options)


def adapted(*, unfreeze=(), calls=((["mlp.fc1", "mlp.fc2"], 3, 6.0),), network=NETWORK) -> TimmBackbone:
    backbone = TimmBackbone(out_features=["stage1", "stage2", "stage3"], **network)
    backbone.net.load_state_dict(seeded(0, timm_network, **network).state_dict())
    freeze(backbone, unfreeze)
    for targets, rank, alpha in calls:
        lora(backbone, targets, rank=rank, alpha=alpha, dropout=0.25)
    return randomize_deltas(backbone).eval()


class TimmDetector(nn.Module):
    def __init__(self, bottom_up: nn.Module):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.bottom_up = bottom_up
        self.backbone.lateral = nn.Conv2d(32, 4, 1)
        self.head = nn.Conv2d(4, 2, 1)


def exported(model: nn.Module, folder):
    save_adapter(model, folder / "a.safetensors")
    return export_peft(folder / "a.safetensors", folder / "peft")


def contents(folder):
    return json.loads((folder / "adapter_config.json").read_text()), safetensors.torch.load_file(
        folder / "adapter_model.safetensors"
    )


def test_the_layout(tmp_path):
    done = exported(TimmDetector(adapted()), tmp_path)
    config, tensors = contents(done.folder)
    assert sorted(path.name for path in done.folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert config["peft_type"] == "LORA" and config["bias"] == "none" and config["fan_in_fan_out"] is False
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (3, 6, 0.25)
    assert config["base_model_name_or_path"] == "convnext_atto"
    assert config["target_modules"] == done.layers == LAYERS
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    _, own = read_adapter(tmp_path / "a.safetensors")
    modules = dict(timm_network(**NETWORK).named_modules())
    assert len(tensors) == 2 * len(LAYERS)
    for layer in LAYERS:
        a, b = (tensors[f"base_model.model.{layer}.{name}.weight"] for name in ("lora_A", "lora_B"))
        assert torch.equal(a, own[f"backbone.bottom_up.net.{layer}.lora_a"])
        assert torch.equal(b, own[f"backbone.bottom_up.net.{layer}.lora_b"])
        conv = modules[layer]
        assert a.shape == (3, conv.in_channels, 1, 1) and b.shape == (conv.out_channels, 3, 1, 1)


def test_linear_layers_and_several_ranks(tmp_path):
    network = dict(NETWORK, conv_mlp=False)
    calls = [(["mlp.fc1"], 3, 6.0), (["stages_3.blocks.0.mlp.fc2"], 5, 2.5)]
    done = exported(adapted(network=network, calls=calls), tmp_path)
    config, tensors = contents(done.folder)
    name = "stages_3.blocks.0.mlp.fc2"
    assert (config["r"], config["lora_alpha"]) == (3, 6)
    assert config["rank_pattern"] == {name: 5} and config["alpha_pattern"] == {name: 2.5}
    assert tensors[f"base_model.model.{name}.lora_A.weight"].shape == (5, 128)
    assert tensors[f"base_model.model.{name}.lora_B.weight"].shape == (32, 5)
    assert done.left_out == [] and str(done) == f"{done.folder} (PEFT layout, LoRA of 5 layers)"


def test_what_the_layout_cannot_hold_is_said_in_one_line(tmp_path):
    done = exported(TimmDetector(adapted()), tmp_path)
    assert done.left_out_of_backbone == []
    assert str(done).endswith(
        "it cannot hold the other 4 trained tensors: backbone.lateral 2, head.bias 1, head.weight 1"
    )
    done = exported(TimmDetector(adapted(unfreeze=["stages_3.downsample"])), tmp_path)
    names = {name.removeprefix("backbone.bottom_up.net.stages_3.downsample.") for name in done.left_out_of_backbone}
    assert names == {"0.weight", "0.bias", "1.weight", "1.bias"}
    text = str(done)
    assert "backbone.bottom_up 4" in text and "its features are not the trained ones" in text and "\n" not in text


@pytest.mark.parametrize("place", ["alone", "bare", "pyramid", "DETR"])
def test_names_are_those_of_the_plain_network_wherever_a_detector_keeps_it(place, tmp_path):
    vit = TimmViT("vit_tiny_patch16_224", embed_dim=16, depth=1, num_heads=2)
    lora(freeze(vit), ["attn.qkv"], rank=2, alpha=4.0)
    places = {
        "alone": lambda: vit,
        "bare": lambda: nn.ModuleDict({"backbone": vit, "head": nn.Linear(16, 2)}),
        "pyramid": lambda: nn.ModuleDict({"backbone": SimpleFeaturePyramid(vit, "block0", 8, [2.0, 1.0])}),
        "DETR": lambda: detr(vit),
    }
    done = exported(places[place](), tmp_path)
    config, tensors = contents(done.folder)
    assert config["target_modules"] == done.layers == ["blocks.0.attn.qkv"]
    assert config["base_model_name_or_path"] == "vit_tiny_patch16_224"
    assert set(tensors) == {f"base_model.model.blocks.0.attn.qkv.lora_{x}.weight" for x in "AB"}
    assert done.left_out_of_backbone == []


KINDS = {
    "1×1 convolutions": dict(),
    "linear layers": dict(network=dict(NETWORK, conv_mlp=False)),
    "3 ranks": dict(
        calls=[
            (["mlp.fc1"], 3, 6.0),
            (["stages_1.blocks.0.mlp.fc2"], 5, 2.5),
            (["stages_2.blocks.0.mlp.fc2"], 1, 6.0),
        ]
    ),
    "strided and 3×3 convolutions": dict(
        network=dict(model_name="resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 16, 16)),
        calls=[(["conv1", "layer2.0.conv2", "layer3.0.conv1", "layer3.0.downsample.0"], 3, 6.0)],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_peft_loads_it_onto_the_plain_network(kind, tmp_path):
    peft = pytest.importorskip("peft")
    model = adapted(**KINDS[kind])
    exported(TimmDetector(model), tmp_path)
    network = KINDS[kind].get("network", NETWORK)
    plain = seeded(0, timm_network, **network).eval()
    base = plain(IMAGES)
    loaded = peft.PeftModel.from_pretrained(plain, str(tmp_path / "peft")).eval()
    for ours, theirs, before in zip(model(IMAGES).values(), loaded(IMAGES), base, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(ours, before, atol=1e-3)


def refused(model: nn.Module, folder, message: str) -> None:
    save_adapter(model, folder / "a.safetensors")
    with pytest.raises(AdapterError, match=message):
        export_peft(folder / "a.safetensors", folder / "peft")
    assert not (folder / "peft").exists()


def test_a_depthwise_convolution_is_refused(tmp_path):
    refused(adapted(calls=[(["conv_dw"], 2, 4.0)]), tmp_path, r"stages_0.blocks.0.conv_dw is a depthwise convolution")


@pytest.mark.parametrize("option", [dict(dilation=2), dict(padding_mode="reflect", padding=1)])
def test_a_convolution_that_peft_would_compute_otherwise_is_refused(option, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, **option), nn.Conv2d(4, 4, 1, **option))
    refused(lora(freeze(net), ["0"], rank=2, alpha=4.0), tmp_path, rf"0 is a convolution with {next(iter(option))}=")
    net = nn.Sequential(nn.Conv2d(3, 4, 3, **option), nn.Conv2d(4, 4, 1, dilation=2))
    assert exported(lora(freeze(net), ["1"], rank=2, alpha=4.0), tmp_path).layers == ["1"]


def test_without_lora_in_the_backbone_there_is_nothing_to_write(tmp_path):
    refused(TimmDetector(freeze(Backbone())), tmp_path, "no LoRA layer in the backbone")
    head_alone = lora(freeze(Detector()), ["head.cls_score"], rank=2, alpha=4.0)
    refused(head_alone, tmp_path, "no LoRA layer in the backbone")


def test_a_file_that_does_not_tell_the_geometry_is_refused_where_it_matters(tmp_path):
    path = tmp_path / "a.safetensors"

    def save(targets):
        save_adapter(lora(freeze(Backbone()), targets, rank=2, alpha=4.0), path)
        info, tensors = read_adapter(path)
        del info["geometry"]
        safetensors.torch.save_file(tensors, path, {"loradet_adapter": json.dumps(info)})

    save(["stem"])
    with pytest.raises(AdapterError, match="older loradet and does not tell how the convolution stem is applied"):
        export_peft(path, tmp_path / "peft")
    save(["fc1"])
    assert len(export_peft(path, tmp_path / "peft").layers) == 6
