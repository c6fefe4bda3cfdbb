"""Parameters and operations, against numbers worked out by hand."""

import json
import math

import pytest
import torch
from helpers.paths import TEST_CONFIGS
from torch import nn

from loradet.adapters import parameter_table
from loradet.config import load_config
from loradet.evaluation.efficiency import model_statistics
from loradet.model import build_model


class Pyramid(nn.Module):
    """A backbone of one convolution with a neck of another."""

    def __init__(self):
        super().__init__()
        self.bottom_up = nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1, bias=False)
        self.lateral = nn.Conv2d(8, 4, kernel_size=1)

    def forward(self, x):
        return self.lateral(self.bottom_up(x).relu())


class Detector(nn.Module):
    """Takes Detectron2's list of dicts."""

    def __init__(self, head):
        super().__init__()
        self.backbone = Pyramid()
        self.head = head

    def forward(self, inputs):
        return self.head(self.backbone(torch.stack([item["image"] for item in inputs])))


def test_convolutions_by_part():
    model = Detector(nn.Conv2d(4, 5, kernel_size=3, padding=1, groups=1)).train()
    model.backbone.bottom_up.requires_grad_(False)
    found = model_statistics(model, (20, 30))
    positions = 10 * 15
    assert found.flops == {"backbone": positions * 8 * 27, "neck": positions * 4 * 8, "head": positions * 5 * 36}
    assert found.flops_by_operator == {"conv": sum(found.flops.values())} and found.uncounted == {}
    assert found.parameters.to_dict()["backbone"] == {"trainable": 0, "total": 8 * 27}
    assert found.parameters.to_dict()["neck"] == {"trainable": 36, "total": 36}
    assert model.training


def test_the_pyramid_of_a_plain_backbone_is_its_neck():
    model = Detector(nn.Conv2d(4, 5, kernel_size=1))
    expected = model_statistics(model, (20, 30)).flops
    assert expected["neck"] > 0

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.lateral = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.lateral(self.net(x).relu())

    model.backbone = Plain()
    assert model_statistics(model, (20, 30)).flops == expected


class Attention(nn.Module):
    """softmax(Q K^T) V with 2 heads, among the positions of a map (N, 4, H, W)."""

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2).unflatten(2, (2, 2)).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


def test_attention_counts_both_products():
    found = model_statistics(Detector(Attention()), (8, 12))
    tokens = 4 * 6
    assert found.flops["head"] == 2 * (2 * tokens * tokens * 2)  # heads, products, L x L x E


class Fourier(nn.Module):
    def forward(self, x):
        return torch.fft.rfft2(x).abs()


def test_what_has_no_rule_is_listed():
    found = model_statistics(Detector(Fourier()), (8, 12))
    # An installed Detectron2 counts no absolute values either.
    assert {name: n for name, n in found.uncounted.items() if name != "aten::abs"} == {"aten::fft_rfft2": 1}
    assert found.flops["head"] == 0
    assert "aten::fft_rfft2 (1 times)" in str(found)


def test_transformer_layers_do_not_hide_in_one_operation():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=16, dropout=0.0, batch_first=True)

        def forward(self, x):
            return self.layer(x.flatten(2).transpose(1, 2))

    found = model_statistics(Detector(Layer()), (8, 12))
    tokens = 4 * 6
    products = tokens * (4 * 12 + 4 * 4 + 2 * 4 * 16) + 2 * tokens * tokens * 4
    norms = found.flops_by_operator["layer_norm"]
    assert found.flops["head"] == products + norms and 0 < norms < products
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.fixture(scope="module")
def cfg():

    return load_config(str(TEST_CONFIGS / "tiny.py"), ["data.root=/nowhere"])


def convolutions(model, inputs):
    """Multiply-adds of all convolutions below a module, by what hooks see."""
    totals = {}

    def hook(name):
        def count(module, _, output):
            per_position = module.in_channels // module.groups * math.prod(module.kernel_size)
            totals[name] = totals.get(name, 0) + output.numel() * per_position

        return count

    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model.eval()(inputs)
    for handle in handles:
        handle.remove()
    return totals


def test_a_detector_costs_its_convolutions_and_low_rank_paths(cfg):
    model = build_model(cfg.model)
    found = model_statistics(model, (64, 96))
    by_layer = convolutions(model, [{"image": torch.zeros(3, 64, 96)}])
    head = sum(v for k, v in by_layer.items() if k.startswith("head."))
    neck = sum(v for k, v in by_layer.items() if k.startswith("backbone.") and ".bottom_up." not in k)
    assert found.flops["head"] == head
    assert found.flops["neck"] == neck + found.flops_by_operator["upsample_nearest2d"]
    # rank 2, on both layers of each MLP: C -> 4 C -> C at each position of each stage
    dims, positions = (8, 16, 24, 32), (16 * 24, 8 * 12, 4 * 6, 2 * 3)
    low_rank = sum(2 * p * 2 * (c + 4 * c) for c, p in zip(dims, positions))
    bottom_up = sum(v for k, v in by_layer.items() if ".bottom_up." in k)
    assert found.flops["backbone"] == bottom_up + low_rank + found.flops_by_operator["layer_norm"]


def test_merged_costs_what_the_base_costs(cfg):
    from loradet.adapters import merge
    from loradet.config.edits import without_lora

    base = model_statistics(build_model(without_lora(cfg.model)), (64, 64))
    adapted = build_model(cfg.model)
    unmerged = model_statistics(adapted, (64, 64))
    assert model_statistics(merge(adapted.eval()), (64, 64)).flops == base.flops
    assert unmerged.flops["backbone"] > base.flops["backbone"]
    assert unmerged.flops["head"] == base.flops["head"]


def test_the_table_and_the_json_tell_the_same(cfg):
    model = build_model(cfg.model)
    found = model_statistics(model, (64, 96))
    values = json.loads(json.dumps(found.to_dict()))
    assert values["parameters"] == parameter_table(model).to_dict()
    assert values["flops"]["all"] == sum(found.flops.values()) and values["input_size"] == [64, 96]
    assert "One multiply-add is one FLOP" in values["convention"]
    lines = str(found).splitlines()
    assert lines[0].split() == ["part", "trainable", "(M)", "total", "(M)", "GFLOPs"]
    assert lines[4].split() == [
        "all",
        f"{values['parameters']['all']['trainable'] / 1e6:.3f}",
        f"{values['parameters']['all']['total'] / 1e6:.3f}",
        f"{values['flops']['all'] / 1e9:.3f}",
    ]
    assert "64x96" in str(found)
