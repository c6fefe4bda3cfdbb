"""The pyramid is Detectron2's own, built from what the backbone says of its maps."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from helpers.paths import ROOT
from torch import nn

from loradet.config import load_config
from loradet.config.trust import is_known
from loradet.detectors.pyramid import pyramid
from loradet.model import build_model

WIDTHS = {"fine": (4, 6), "middle": (8, 10), "coarse": (16, 12)}  # strides and channels


class Stages(Backbone):
    """Maps of stride 4, 8 and 16, listed coarsest first."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleDict(
            {name: nn.Conv2d(3, width, stride, stride) for name, (stride, width) in WIDTHS.items()}
        )

    def forward(self, x):
        return {name: conv(x) for name, conv in self.convs.items()}

    def output_shape(self):
        return {name: ShapeSpec(channels=c, stride=s) for name, (s, c) in reversed(WIDTHS.items())}


def seeded(build):
    torch.manual_seed(0)
    return build()


def assert_same(mine: nn.Module, theirs: nn.Module) -> None:
    """Names in their order, and values, are the same."""
    ours, expected = mine.state_dict(), theirs.state_dict()
    assert list(ours) == list(expected)
    assert [name for name in ours if not torch.equal(ours[name], expected[name])] == []


def by_hand(names: list[str], top_block: nn.Module | None) -> FPN:
    return FPN(Stages(), names, 16, top_block=top_block)


@pytest.mark.parametrize(
    ("given", "top_block"),
    [
        ({"extra_levels": 0}, lambda: None),
        ({"extra_levels": 2}, lambda: LastLevelP6P7(12, 16, in_feature="coarse")),
        ({}, lambda: LastLevelP6P7(12, 16, in_feature="coarse")),
        ({"extra_from": "middle"}, lambda: LastLevelP6P7(10, 16, in_feature="middle")),
        ({"extra_from": "p4"}, lambda: LastLevelP6P7(16, 16, in_feature="p4")),
        (
            {"top_block": {"in_channels": 10, "in_feature": "middle"}},
            lambda: LastLevelP6P7(10, 16, in_feature="middle"),
        ),
        ({"top_block": {"in_channels": None, "in_feature": None}}, lambda: LastLevelP6P7(12, 16, in_feature="coarse")),
    ],
)
def test_it_is_what_one_writes_by_hand(given, top_block):
    names = ["fine", "middle", "coarse"]
    # The block above is made before the pyramid's own layers, as where a config builds the one for the other.
    stages = seeded(Stages)
    block = top_block()
    theirs = FPN(stages, names, 16, top_block=block)
    mine = seeded(lambda: pyramid(bottom_up=Stages(), in_features=names, out_channels=16, **given))
    assert type(mine) is FPN
    assert_same(mine, theirs)
    image = torch.randn(1, 3, 64, 64)
    ours, expected = mine(image), theirs(image)
    assert list(ours) == list(expected) == list(mine.output_shape())
    assert all(torch.equal(ours[name], expected[name]) for name in ours)


def test_none_takes_all_maps_finest_first():
    neck = pyramid(bottom_up=Stages(), out_channels=16, extra_levels=0)
    assert list(neck.in_features) == ["fine", "middle", "coarse"]
    assert {name: shape.stride for name, shape in neck.output_shape().items()} == {"p2": 4, "p3": 8, "p4": 16}


def test_the_pooled_level_is_above_the_last_one_whatever_its_number():
    neck = pyramid(bottom_up=Stages(), out_channels=16, extra_levels=1)
    assert isinstance(neck.top_block, LastLevelMaxPool)
    maps = neck(torch.randn(1, 3, 64, 64))
    assert list(maps) == ["p2", "p3", "p4", "p5"]
    assert torch.equal(maps["p5"], maps["p4"][:, :, ::2, ::2])


def test_a_block_of_ones_own_takes_the_place():
    block = LastLevelP6P7(12, 16, in_feature="coarse")
    assert pyramid(bottom_up=Stages(), out_channels=16, top_block=block).top_block is block


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"in_features": ["fine", "res5"]},
            r"res5.*gives coarse \(stride 16\), middle \(stride 8\), fine \(stride 4\)",
        ),
        ({"in_features": []}, r"in_features=\[\].*coarse"),
        ({"in_features": ["fine", "coarse"]}, "double from one to the next"),
        ({"in_features": ["middle", "fine"]}, "double from one to the next"),
        ({"extra_levels": 3}, r"extra_levels=3.*0, 1 \(LastLevelMaxPool\) or 2 \(LastLevelP6P7\)"),
        ({"extra_from": "p9"}, "extra_from='p9'.*expected one of coarse, middle, fine, p2, p3, p4"),
        ({"extra_from": "p4", "extra_levels": 1}, "extra_from=p4 .*two extra levels.*extra_levels=1"),
        ({"top_block": {"in_channels": 12}, "extra_levels": 1}, "top_block.in_channels=12 .*extra_levels=1"),
        ({"top_block": {"in_channels": 768}}, "top_block.in_channels=768.*coarse has 12 channels"),
        ({"top_block": {"out_channels": 8}}, "top_block.out_channels=8.*16 channels"),
        ({"top_block": {"num_levels": 2}}, "num_levels.*extra_levels"),
    ],
)
def test_what_does_not_fit_is_one_line(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        pyramid(bottom_up=Stages(), out_channels=16, **given)
    assert "\n" not in str(caught.value)


def test_maps_of_one_stride_are_told_of_the_simple_pyramid():
    stages = Stages()
    stages.output_shape = lambda: {f"block{i}": ShapeSpec(channels=8, stride=16) for i in range(2)}
    with pytest.raises(ValueError, match=r"double.*SimpleFeaturePyramid.*retinanet_vit"):
        pyramid(bottom_up=stages)


TINY = str(ROOT / "tests/configs/tiny.py")


def test_a_config_of_before_builds_the_same_detector(tmp_path):
    """A run's config.yaml has FPN and LastLevelP6P7 written out; weights of that run fit, and start as they did."""
    cfg = load_config(TINY, ["data.root=/none"])
    mine = seeded(lambda: build_model(cfg.model))
    for key in ("extra_levels", "extra_from"):
        del cfg.model.backbone[key]
    cfg.model.backbone._target_ = FPN
    cfg.model.backbone.top_block = L(LastLevelP6P7)(
        in_channels=32, out_channels="${..out_channels}", in_feature="stage3"
    )
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    before = load_config(str(tmp_path / "config.yaml"), ["model.backbone.top_block.in_channels=32"])
    assert_same(mine, seeded(lambda: build_model(before.model)))


@pytest.mark.parametrize(
    ("override", "channels"),
    [
        ("model.backbone.top_block.in_channels=32", 32),
        ("model.backbone.top_block.in_feature=stage2", 24),
        ("model.backbone.extra_from=stage2", 24),
        ("model.backbone.top_block.in_feature=p5", 16),
    ],
)
def test_overrides_of_before_go_on(override, channels):
    cfg = load_config(TINY, ["data.root=/none", override])
    assert instantiate(cfg.model.backbone).top_block.p6.in_channels == channels


def test_anybodys_config_may_call_it():
    assert is_known("loradet.detectors.pyramid.pyramid") and is_known(pyramid)
