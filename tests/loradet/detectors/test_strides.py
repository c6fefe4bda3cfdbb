"""Anchors and poolers stand on the maps that the backbone gives."""

import pytest
from helpers.paths import ROOT

from loradet.config import load_config
from loradet.model import build_model

TINY = ROOT / "tests/configs/tiny.py"
TINY_TWO_STAGE = """
from detectron2.config import LazyConfig
_cfg = LazyConfig.load({tiny!r})
data, dataloader, train, optimizer, lr_multiplier = (
    _cfg[k] for k in ("data", "dataloader", "train", "optimizer", "lr_multiplier")
)
model = LazyConfig.load({two_stage!r}).model
model.backbone.bottom_up = _cfg.model.backbone.bottom_up
model.backbone.bottom_up.module.module.out_features = None
model.backbone.out_channels = 16
model.roi_heads.box_head.fc_dims = [16]
model.roi_heads.box_predictor.input_shape.channels = 16
"""


def built(file, *overrides):
    return build_model(load_config(str(file), ["data.root=/none", *overrides]).model)


@pytest.fixture
def two_stage(tmp_path):
    file = tmp_path / "two_stage.py"
    config = str(ROOT / "configs/common/models/faster_rcnn_fpn.py")
    file.write_text(TINY_TWO_STAGE.format(tiny=str(TINY), two_stage=config))
    return file


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.anchor_generator.strides=[4,8,16,32,64]",
            r"model\.anchor_generator\.strides=\[4, 8, 16, 32, 64\].*p3, p4, p5, p6, p7 are 8, 16, 32, 64, 128"
            r".*strides=\[8, 16, 32, 64, 128\].*model\.head_in_features",
        ),
        ("model.backbone.extra_levels=1", r"model\.head_in_features=.*gives p3, p4, p5, p6, and no p7"),
        (
            "model.backbone.bottom_up.module.module.out_features=[stage0,stage1,stage2]",
            r"in_features=\['stage1', 'stage2', 'stage3'\].*stage0 \(stride 4\)",
        ),
    ],
)
def test_of_a_retinanet(override, message):
    with pytest.raises(ValueError, match=message):
        built(TINY, override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.proposal_generator.anchor_generator.strides=[8,16,32,64,128]",
            r"model\.proposal_generator\.anchor_generator\.strides=\[8.*are 4, 8, 16, 32, 64 ",
        ),
        (
            "model.roi_heads.box_pooler.scales=[0.125,0.0625,0.03125,0.015625]",
            r"model\.roi_heads\.box_pooler\.scales=\[0\.125.*set model\.roi_heads\.box_pooler\.scales=\[0\.25, 0\.125",
        ),
    ],
)
def test_of_an_rcnn(two_stage, override, message):
    with pytest.raises(ValueError, match=message):
        built(two_stage, override)


def test_what_fits_is_built(two_stage):
    assert built(TINY).anchor_generator.strides == [8, 16, 32, 64, 128]
    model = built(two_stage)
    assert list(model.backbone.in_features) == ["stage0", "stage1", "stage2", "stage3"]
