"""Parameter groups."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.layers import get_norm
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from detectron2.solver import get_default_optimizer_params
from torch import nn


@pytest.fixture(scope="module")
def golden(golden_d2: Path) -> dict[str, Any]:
    return json.loads((golden_d2 / "optimizer.json").read_text())


class Net(nn.Module):
    """The module that the recorded groups are of."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.gn = nn.GroupNorm(2, 4)
        self.ln = nn.LayerNorm(4)
        self.channel_ln = get_norm("LN", 4)
        self.frozen_bn = get_norm("FrozenBN", 4)
        self.fc = nn.Linear(4, 4)
        self.pos_embed = nn.Parameter(torch.zeros(1, 4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.shared = self.fc
        self.block = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))


def named_groups(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [{**group, "params": [names[p] for p in group["params"]]} for group in groups]


@pytest.mark.golden
def test_cases(golden: dict[str, Any]) -> None:
    model = Net()
    found = [[name, list(p.shape), p.requires_grad] for name, p in model.named_parameters()]
    assert found == golden["parameters"]
    for name, case in golden["cases"].items():
        kwargs = dict(case["kwargs"])
        if "lr_factor" in case:
            kwargs["lr_factor_func"] = lambda n: 0.5 if n.startswith("block") else 1.0
        assert named_groups(model, get_default_optimizer_params(model, **kwargs)) == case["groups"], name


@pytest.mark.golden
def test_errors(golden: dict[str, Any]) -> None:
    kwargs = {
        "bias_lr_factor without base_lr": {"bias_lr_factor": 2.0},
        "lr_factor_func without base_lr": {"lr_factor_func": lambda _: 1.0},
        "overrides and weight_decay_bias both for bias": {
            "overrides": {"bias": {"lr": 1.0}},
            "weight_decay_bias": 0.0,
        },
    }
    for name, names in golden["errors"].items():
        with pytest.raises(getattr(builtins, names[0])):
            get_default_optimizer_params(Net(), **kwargs[name])


@pytest.mark.golden
def test_vit_lr_decay(golden: dict[str, Any]) -> None:
    for case in golden["vit_lr_decay"]:
        rate = get_vit_lr_decay_rate(case["name"], case["lr_decay_rate"], case["num_layers"])
        assert rate == pytest.approx(case["rate"], rel=1e-9)


def test_arguments_are_left_alone_and_groups_train() -> None:
    model = Net()
    overrides = {"pos_embed": {"weight_decay": 0.0}}
    groups = get_default_optimizer_params(
        model, base_lr=0.1, weight_decay=0.1, weight_decay_bias=0.0, overrides=overrides
    )
    assert overrides == {"pos_embed": {"weight_decay": 0.0}}
    optimizer = torch.optim.AdamW(groups)
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}
    trained = [p for group in groups for p in group["params"]]
    assert len(trained) == len(set(trained)) == sum(p.requires_grad for p in model.parameters())


def test_yacs_builders_say_where_they_are() -> None:
    with pytest.raises(ImportError, match="build_optimizer"):
        from detectron2.solver import build_optimizer  # noqa: F401
