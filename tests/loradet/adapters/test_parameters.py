import json

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone as BackboneBase
from detectron2.modeling.backbone import SimpleFeaturePyramid
from helpers.adapter_nets import Backbone, Detector
from torch import nn

from loradet.adapters import freeze, lora, parameter_table


class Patches(BackboneBase):
    """A plain backbone of one layer."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, 8, 16, 16)

    def forward(self, x):
        return {"map": self.proj(x)}

    def output_shape(self):
        return {"map": ShapeSpec(channels=8, stride=16)}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parts_of_a_detector():
    model = Detector(lora(freeze(Backbone()), ["mlp.fc1"], rank=2, alpha=4.0))
    bottom_up = model.backbone.bottom_up
    delta = 3 * 2 * (8 + 16)
    expected = {
        "backbone": {"trainable": delta, "total": count(bottom_up)},
        "neck": {"trainable": count(model.backbone.lateral), "total": count(model.backbone.lateral)},
        "head": {"trainable": count(model.head), "total": count(model.head)},
        "all": {"trainable": delta + count(model.backbone.lateral) + count(model.head), "total": count(model)},
    }
    assert parameter_table(model).to_dict() == expected
    assert parameter_table(nn.DataParallel(model)).to_dict() == json.loads(json.dumps(expected))


def test_without_bottom_up_all_of_backbone_is_backbone_and_the_rest_is_head():
    model = nn.ModuleDict({"backbone": Backbone(), "backbone2": nn.Linear(2, 2), "head": nn.Linear(3, 3)})
    parts = parameter_table(model).parts
    assert parts["backbone"].total == count(model["backbone"])
    assert parts["neck"].total == 0 and parts["head"].total == 6 + 12
    model["backbone2"].weight = model["head"].weight  # shared: once
    assert parameter_table(model).all.total == count(model)


def test_the_neck_of_a_plain_backbone():
    net = Patches()
    pyramid = SimpleFeaturePyramid(freeze(net), "map", out_channels=4, scale_factors=[2.0, 1.0])
    parts = parameter_table(nn.ModuleDict({"backbone": pyramid, "head": nn.Linear(3, 3)})).to_dict()
    neck = count(pyramid) - count(net)
    assert parts["backbone"] == {"trainable": 0, "total": count(net)}
    assert parts["neck"] == {"trainable": neck, "total": neck}


def test_the_text_has_a_row_for_each_part_in_millions():
    model = nn.ModuleDict(
        {"backbone": nn.Linear(1000, 1000, bias=False).requires_grad_(False), "head": nn.Linear(99, 5)}
    )
    lines = str(parameter_table(model)).splitlines()
    assert [line.split()[0] for line in lines] == ["part", "backbone", "neck", "head", "all"]
    assert lines[1].split()[1:] == ["0.000", "1.000", "0.00%"]
