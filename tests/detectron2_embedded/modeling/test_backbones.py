"""FPN and ResNet beyond the recorded numbers."""

import copy

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import nn


def small_resnet(**kwargs) -> ResNet:
    stages = [
        ResNet.make_stage(BasicBlock, 1, in_channels=8, out_channels=8, norm="BN"),
        ResNet.make_stage(BasicBlock, 2, in_channels=8, out_channels=16, stride_per_block=[2, 1], norm="BN"),
    ]
    return ResNet(BasicStem(out_channels=8), stages, **kwargs)


def test_resnet_shapes_are_those_of_its_outputs():
    model = small_resnet(out_features=["stem", "res2", "res3"]).eval()
    outputs = model(torch.randn(2, 3, 32, 48))
    for name, shape in model.output_shape().items():
        assert outputs[name].shape == (2, shape.channels, 32 // shape.stride, 48 // shape.stride)
    assert list(outputs) == ["stem", "res2", "res3"]


def test_resnet_returns_its_last_stage_by_default_or_the_classifier():
    assert list(small_resnet()(torch.randn(2, 3, 32, 32))) == ["res3"]
    logits = small_resnet(num_classes=5)(torch.randn(2, 3, 32, 32))
    assert list(logits) == ["linear"] and logits["linear"].shape == (2, 5)


def test_resnet_refuses_unknown_outputs_and_depths():
    with pytest.raises(AssertionError, match="stem, res2, res3"):
        small_resnet(out_features=["res4"])
    with pytest.raises(AssertionError, match=r"\(N, C, H, W\)"):
        small_resnet()(torch.randn(3, 32, 32))


# Detectron2 0.6 (main of 2026-06-06) has a KeyError of the number alone.
@pytest.mark.subset
def test_an_unknown_depth_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"depth 42.*18, 34, 50"):
        ResNet.make_default_stages(42)


def test_make_stage_gives_each_block_its_own_arguments():
    blocks = ResNet.make_stage(
        BottleneckBlock,
        3,
        in_channels=8,
        out_channels=16,
        bottleneck_channels=4,
        stride_per_block=[2, 1, 1],
        dilation_per_block=[1, 2, 4],
    )
    assert [block.stride for block in blocks] == [2, 1, 1]
    assert [block.conv2.dilation[0] for block in blocks] == [1, 2, 4]
    assert [block.in_channels for block in blocks] == [8, 16, 16]
    assert nn.Sequential(*blocks)(torch.randn(2, 8, 8, 8)).shape == (2, 16, 4, 4)
    with pytest.raises(AssertionError, match="stride_per_block"):
        ResNet.make_stage(BasicBlock, 3, in_channels=8, out_channels=8, stride_per_block=[1, 1])
    with pytest.raises(AssertionError, match="stride_per_block"):
        ResNet.make_stage(BasicBlock, 1, in_channels=8, out_channels=8, stride=1, stride_per_block=[1])


def test_stride_of_a_bottleneck_sits_where_asked():
    for stride_in_1x1, strides in ((True, (2, 1)), (False, (1, 2))):
        block = BottleneckBlock(8, 16, bottleneck_channels=4, stride=2, stride_in_1x1=stride_in_1x1)
        assert (block.conv1.stride[0], block.conv2.stride[0]) == strides


# Detectron2 0.6 (main of 2026-06-06) fails in the first forward pass.
@pytest.mark.subset
def test_a_block_of_stride_two_needs_a_projection():
    with pytest.raises(AssertionError, match="stride 2 needs other channels"):
        BasicBlock(8, 8, stride=2)


def test_a_frozen_stage_does_not_move_in_training():
    model = small_resnet(freeze_at=2, out_features=["res2", "res3"]).train()
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(2, 3, 32, 32))["res3"].sum().backward()
    assert any(isinstance(module, FrozenBatchNorm2d) for module in model.res2.modules())
    after = model.state_dict()
    for name, value in before.items():
        frozen = name.startswith(("stem", "res2"))
        if frozen:
            assert torch.equal(after[name], value), name
    assert not torch.equal(after["res3.0.conv1.norm.running_mean"], before["res3.0.conv1.norm.running_mean"])
    assert all((p.grad is None) == n.startswith(("stem", "res2")) for n, p in model.named_parameters())


# Detectron2 0.6 (main of 2026-06-06) goes on with the convolutions that it was built with.
@pytest.mark.subset
def test_fpn_uses_a_convolution_that_was_replaced():
    fpn = FPN(small_resnet(out_features=["res2", "res3"]), ["res2", "res3"], 4, top_block=LastLevelMaxPool())
    fpn.top_block.in_feature = "p3"
    fpn.eval()
    x = torch.randn(1, 3, 32, 32)
    before = fpn(x)
    fpn.fpn_lateral3 = nn.Conv2d(16, 4, 1)
    after = fpn(x)
    assert not torch.equal(before["p2"], after["p2"])
    assert list(after) == ["p2", "p3", "p4"] == list(fpn.output_shape())


@pytest.mark.subset
def test_fpn_refuses_unknown_features():
    with pytest.raises(AssertionError, match=r"res2, res3.*got \['res7'\]"):
        FPN(small_resnet(out_features=["res2", "res3"]), ["res7"], 4)


def test_fpn_passes_its_square_padding_on():
    fpn = FPN(small_resnet(out_features=["res3"]), ["res3"], 4, square_pad=64)
    assert fpn.padding_constraints == {"square_size": 64}
    assert fpn.output_shape() == {"p3": ShapeSpec(channels=4, stride=8)}


def test_backbones_are_found_by_name(monkeypatch):
    monkeypatch.setattr(BACKBONE_REGISTRY, "_obj_map", {})

    class Flat(Backbone):
        def forward(self, x):
            return {"flat": x}

    BACKBONE_REGISTRY.register(Flat)
    assert BACKBONE_REGISTRY.get("Flat") is Flat
    with pytest.raises(TypeError):
        Backbone()


@pytest.mark.subset
@pytest.mark.parametrize("name", ["MViT", "build_backbone", "PanopticFPN", "ROI_MASK_HEAD_REGISTRY"])
def test_missing_parts_say_where_to_get_them(name):
    with pytest.raises(ImportError, match=f"{name}.*installed Detectron2"):
        exec(f"from detectron2.modeling import {name}")
