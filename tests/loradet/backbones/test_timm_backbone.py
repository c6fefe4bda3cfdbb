"""TimmBackbone over several families of timm networks."""

import copy
import os
import pickle
import subprocess
import sys

import pytest
import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from safetensors.torch import save_file
from torch import nn

from loradet.adapters import freeze, lora
from loradet.backbones import Dinov3TimmConvNeXtLoRA, TimmBackbone
from loradet.backbones.timm_backbone import stage_names

# name: timm arguments, strides of all stages
NETWORKS = {
    "test_convnext": ({}, [4, 8, 16, 32]),
    "convnext_atto": ({}, [4, 8, 16, 32]),
    "test_resnet": ({}, [4, 8, 16, 32]),
    "regnetx_002": ({}, [4, 8, 16, 32]),
    "test_efficientnet": ({}, [4, 8, 16, 32]),
    "mobilenetv3_small_050": ({}, [4, 8, 16, 32]),
    "hrnet_w18_small": ({}, [4, 8, 16, 32]),  # gives an unfinished branch where an early stage is asked for
    "pvt_v2_b0": ({}, [4, 8, 16, 32]),
    "mambaout_femto": ({"depths": (1, 1, 1, 1)}, [4, 8, 16, 32]),  # NHWC
    "swin_tiny_patch4_window7_224": (  # NHWC
        {"strict_img_size": False, "depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)},
        [4, 8, 16, 32],
    ),
    "test_vit": ({"dynamic_img_size": True}, [16] * 6),
}

# Sizes must be multiples of these; the others take any size.
SIZE_STEP = {"hrnet_w18_small": 32, "swin_tiny_patch4_window7_224": 4, "test_vit": 16}


def make(name: str, **kwargs) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone(name, **NETWORKS[name][0], **kwargs)


def check_features(backbone: TimmBackbone, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    features = backbone(torch.randn(2, 3, *size))
    shapes = backbone.output_shape()
    assert list(features) == list(shapes)
    for name, feature in features.items():
        assert feature.shape[:2] == (2, shapes[name].channels), name
        for got, pixels in zip(feature.shape[2:], size):
            assert abs(got - pixels / shapes[name].stride) < 1, name
    return features


@pytest.mark.parametrize("name", NETWORKS)
def test_every_family_has_true_shapes_and_gradients(name):
    backbone = make(name)
    strides = NETWORKS[name][1]
    assert isinstance(backbone, Backbone)
    assert list(backbone.output_shape()) == [f"stage{i}" for i in range(len(strides))]
    assert list(backbone.strides.values()) == strides
    assert backbone.size_divisibility == max(strides)

    with torch.no_grad():
        step = SIZE_STEP.get(name, 1)
        check_features(backbone.eval(), (75 // step * step, 101 // step * step))
    features = check_features(backbone.train(), (64, 96))
    sum(feature.square().mean() for feature in features.values()).backward()
    without = [key for key, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("wanted", [["stage1"], ["stage2", "stage0"]])
def test_only_what_the_outputs_need_trains(name, wanted):
    backbone = make(name, out_features=wanted).train()
    assert list(backbone.output_shape()) == sorted(wanted)
    features = check_features(backbone, (64, 64))
    sum(feature.square().mean() for feature in features.values()).backward()
    assert [key for key, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "pvt_v2_b0", "mambaout_femto"])
def test_later_stages_are_not_built(name):
    all_stages, two = make(name), make(name, out_features=["stage0", "stage1"])
    count = [sum(p.numel() for p in backbone.parameters()) for backbone in (all_stages, two)]
    assert count[1] < 0.5 * count[0]
    assert set(two.state_dict()) < set(all_stages.state_dict())


@pytest.mark.parametrize("name", ["test_convnext", "convnext_atto", "test_resnet", "regnetx_002", "test_efficientnet"])
def test_channels_last_changes_no_number(name):
    backbone = make(name).eval()
    assert backbone.channels_last
    x = torch.randn(2, 3, 64, 96)
    expected = TimmBackbone(name, channels_last=False).eval()
    expected.load_state_dict(backbone.state_dict())
    seen = []
    handle = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d)).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    for key, feature in backbone(x).items():
        torch.testing.assert_close(feature, expected(x)[key], rtol=1e-4, atol=1e-4)
    handle.remove()
    assert seen == [True]


@pytest.mark.parametrize("name", ["convnext_atto", "test_resnet", "swin_tiny_patch4_window7_224"])
def test_features_are_timms_own(name):
    backbone = make(name).eval()
    net = timm.create_model(name, features_only=True, **NETWORKS[name][0]).eval()
    net.load_state_dict(backbone.net.state_dict())
    x = torch.randn(1, 3, 64, 64)
    expected = net(x)[-4:]
    if name.startswith("swin"):
        expected = [feature.permute(0, 3, 1, 2) for feature in expected]
    for feature, other in zip(backbone(x).values(), expected):
        torch.testing.assert_close(feature, other, rtol=1e-4, atol=1e-4)


def test_parameters_show_timms_names():
    keys = make("convnext_atto").state_dict()
    assert "net.stages_3.blocks.0.mlp.fc1.weight" in keys
    assert all(key.startswith("net.") for key in keys)


def test_a_backbone_states_what_its_weights_expect():
    backbone = TimmBackbone("convnext_tiny.dinov3_lvd1689m", out_features=["stage0"])
    assert backbone.model_name == "convnext_tiny.dinov3_lvd1689m"
    assert backbone.mean == (0.485, 0.456, 0.406)
    assert backbone.pixel_std == pytest.approx((58.395, 57.12, 57.375))
    assert "dinov3" in backbone.licence
    assert backbone.output_shape() == {"stage0": ShapeSpec(channels=96, stride=4)}
    assert backbone.padding_constraints == {}


def test_outputs_before_stride_four_are_stems():
    assert stage_names([2, 4, 8, 16, 32]) == ["stem0", "stage0", "stage1", "stage2", "stage3"]
    assert stage_names([16, 16]) == ["stage0", "stage1"]
    backbone = make("test_resnet", out_features=["stem0", "stage1"])
    assert backbone.strides == {"stem0": 2, "stage1": 8}
    check_features(backbone, (64, 64))


def test_it_can_be_copied_and_pickled():
    backbone = make("test_resnet").eval()
    x = torch.randn(1, 3, 64, 64)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        torch.testing.assert_close(other(x)["stage3"], backbone(x)["stage3"])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model_name": "convnxt_atto"}, ValueError, ["convnxt_atto", "convnext_atto"]),
        ({"model_name": "convnext_small.dinov3_lvd"}, ValueError, ["convnext_small.dinov3_lvd1689m"]),
        ({"model_name": "test_resnet", "out_features": ["stage4"]}, ValueError, ["stage4", "stage3"]),
        ({"model_name": "test_resnet", "out_features": []}, ValueError, ["stage0"]),
        ({"model_name": "test_resnet", "out_features": "stage1"}, ValueError, ["stage1", "list"]),
        (
            {"model_name": "convnext_atto", "drop_pth_rate": 0.1},
            TypeError,
            ["drop_pth_rate", "drop_path_rate"],
        ),
        ({"model_name": "convnext_atto", "out_indices": (1, 2)}, TypeError, ["out_indices", "out_features"]),
        ({"model_name": "convnext_atto", "pretrained": True, "weights": "a.pth"}, ValueError, ["a.pth"]),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words):
    with pytest.raises(error) as caught:
        TimmBackbone(**arguments)
    for word in words:
        assert word in str(caught.value)


def test_pretrained_without_a_network_says_what_to_do(tmp_path):
    code = (
        "import loradet\n"
        "from loradet.backbones import TimmBackbone\n"
        "TimmBackbone('convnext_small.dinov3_lvd1689m', pretrained=True)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    message = done.stderr[done.stderr.index("PretrainedWeightsError") :]
    for word in ("convnext_small.dinov3_lvd1689m", str(tmp_path), "HF_HUB_OFFLINE", "weights="):
        assert word in message
    assert done.stderr.count("Traceback") == 1


PRETRAINED = """
import loradet, sys, torch
from loradet.backbones import TimmBackbone
from safetensors.torch import load_file
backbone = TimmBackbone("test_resnet", pretrained=True, cache_dir=sys.argv[1])
expected = load_file(sys.argv[2])
for name, value in backbone.net.state_dict().items():
    assert torch.equal(value, expected[name]), name
"""


@pytest.mark.parametrize("dropped", [None, "layer2.0.conv1.weight"])
def test_pretrained_comes_from_the_cache_and_is_never_partly_random(tmp_path, dropped):
    net = timm.create_model("test_resnet")
    repository = net.pretrained_cfg["hf_hub_id"].replace("/", "--")
    snapshot = tmp_path / f"models--{repository}" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / f"models--{repository}" / "refs").mkdir()
    (tmp_path / f"models--{repository}" / "refs" / "main").write_text("0" * 40)
    state = {
        key: torch.randn_like(value) if value.is_floating_point() else value for key, value in net.state_dict().items()
    }
    save_file({key: value for key, value in state.items() if key != dropped}, snapshot / "model.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", PRETRAINED, str(tmp_path), str(snapshot / "model.safetensors")],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if dropped is None:
        assert done.returncode == 0, done.stderr
    else:
        assert "PretrainedWeightsError: The pretrained weights of 'test_resnet' cannot be loaded" in done.stderr
        assert f"lacks {dropped}" in done.stderr


def test_pretrained_without_published_weights_is_an_error():
    with pytest.raises(RuntimeError, match="convnext_zepto_rms"):
        TimmBackbone("convnext_zepto_rms", pretrained=True)  # an architecture without weights in timm


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "test_efficientnet"])
def test_frozen_parts_stay_as_they_are_in_training(name):
    backbone = freeze(make(name, drop_path_rate=0.5)).train()
    before = copy.deepcopy(backbone.state_dict())
    x = torch.randn(2, 3, 64, 64)
    first, second = backbone(x)["stage3"], backbone(x)["stage3"]
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


STUDY = {"model_name": "convnext_small.dinov3_lvd1689m", "out_features": ["stage1", "stage2", "stage3"]}


@pytest.mark.parametrize("unfreeze", [[], ["stages_3"]])
def test_the_studys_class_is_the_composition(unfreeze):
    model = {"model_name": "test_convnext", "out_features": ["stage1", "stage3"]}
    torch.manual_seed(0)
    named = BACKBONE_REGISTRY.get("Dinov3TimmConvNeXtLoRA")(**model, rank=4, unfreeze=unfreeze)
    torch.manual_seed(0)
    composed = lora(
        freeze(TimmBackbone(**model), unfreeze=unfreeze),
        targets=["mlp.fc1", "mlp.fc2"],
        rank=4,
        alpha=32.0,
        dropout=0.0,
        freeze_base=True,
    )
    assert isinstance(named, TimmBackbone)
    expected = composed.state_dict()
    assert list(named.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[key]) for key, value in named.state_dict().items())
    trainable = [{key for key, p in model.named_parameters() if p.requires_grad} for model in (named, composed)]
    assert trainable[0] == trainable[1] != set()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(named.eval()(x)["stage3"], composed.eval()(x)["stage3"])


def test_parameter_counts_of_the_study():
    from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7

    backbone = Dinov3TimmConvNeXtLoRA(**STUDY)
    trainable = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    assert trainable / 1e6 == pytest.approx(2.166, abs=5e-4)
    total = sum(p.numel() for p in backbone.parameters())
    top = LastLevelP6P7(768, 256, in_feature="stage3")
    neck = FPN(backbone, STUDY["out_features"], out_channels=256, top_block=top)
    assert (sum(p.numel() for p in neck.parameters()) - total) / 1e6 == pytest.approx(4.475, abs=5e-4)


def test_dropout_of_lora_stays_active_while_the_base_is_frozen():
    backbone = Dinov3TimmConvNeXtLoRA("test_convnext", rank=4, dropout=0.5).train()
    with torch.no_grad():
        for key, p in backbone.named_parameters():
            if key.endswith("lora_b"):
                p.normal_()
    x = torch.randn(1, 3, 64, 64)
    assert not torch.equal(backbone(x)["stage3"], backbone(x)["stage3"])
    backbone.eval()
    assert torch.equal(backbone(x)["stage3"], backbone(x)["stage3"])
