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
from detectron2.solver.build import reduce_param_groups
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


def test_groups_train() -> None:
    model = Net()
    groups = get_default_optimizer_params(
        model, base_lr=0.1, weight_decay=0.1, weight_decay_bias=0.0, overrides={"pos_embed": {"weight_decay": 0.0}}
    )
    optimizer = torch.optim.AdamW(groups)
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}
    trained = [p for group in groups for p in group["params"]]
    assert len(trained) == len(set(trained)) == sum(p.requires_grad for p in model.parameters())


@pytest.mark.subset  # Detectron2 0.6 adds the options for biases to the dict that it is given
def test_overrides_are_left_alone() -> None:
    overrides = {"pos_embed": {"weight_decay": 0.0}}
    get_default_optimizer_params(Net(), base_lr=0.1, weight_decay_bias=0.0, overrides=overrides)
    assert overrides == {"pos_embed": {"weight_decay": 0.0}}


def test_a_name_of_the_model_itself_begins_with_a_dot() -> None:
    names = []
    get_default_optimizer_params(Net(), base_lr=0.1, lr_factor_func=lambda name: names.append(name) or 1.0)
    assert names[:2] == [".pos_embed", "conv.weight"]
    assert "block.0.weight" in names


def parameters(count: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(1)) for _ in range(count)]


def test_reduce_merges_groups_with_the_same_options() -> None:
    a, b, c, d = parameters(4)
    found = reduce_param_groups(
        [
            {"params": [a], "lr": 0.1},
            {"params": [b], "lr": 0.2, "weight_decay": 0.0},
            {"params": iter([c, d]), "lr": 0.1},
        ]
    )
    assert found == [{"params": [a, c, d], "lr": 0.1}, {"params": [b], "lr": 0.2, "weight_decay": 0.0}]


def test_reduce_joins_the_options_of_one_parameter() -> None:
    # Detectron2 0.6, main of 2026-06-06: later groups add to, and overwrite, what earlier ones say.
    a, b = parameters(2)
    given = [
        {"params": [a, b], "lr": 0.1, "momentum": 0.9},
        {"params": [b], "lr": 0.3},
        {"params": [a], "weight_decay": 0.0},
    ]
    assert reduce_param_groups(given) == [
        {"params": [a], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0},
        {"params": [b], "lr": 0.3, "momentum": 0.9},
    ]
    assert given[0] == {"params": [a, b], "lr": 0.1, "momentum": 0.9}


def test_reduce_keeps_names_with_their_parameters() -> None:
    a, b, c = parameters(3)
    found = reduce_param_groups(
        [
            {"params": [a, b], "param_names": ["a", "b"], "lr": 0.1},
            {"params": [c], "param_names": ["c"], "lr": 0.1},
            {"params": [b], "param_names": ["b"], "lr": 0.2},
        ]
    )
    assert found == [
        {"params": [a, c], "param_names": ["a", "c"], "lr": 0.1},
        {"params": [b], "param_names": ["b"], "lr": 0.2},
    ]
    torch.optim.SGD(found)


def test_reduce_tells_the_order_of_options_apart() -> None:
    a, b = parameters(2)
    found = reduce_param_groups(
        [{"params": [a], "lr": 0.1, "momentum": 0.9}, {"params": [b], "momentum": 0.9, "lr": 0.1}]
    )
    assert len(found) == 2


def test_reduce_of_nothing_and_of_no_group() -> None:
    assert reduce_param_groups([]) == []
    assert reduce_param_groups([{"params": [], "lr": 0.1}]) == []
    with pytest.raises(AssertionError):
        reduce_param_groups([{"lr": 0.1}])


@pytest.mark.subset
def test_yacs_builders_say_where_they_are() -> None:
    with pytest.raises(ImportError, match="build_optimizer"):
        from detectron2.solver import build_optimizer  # noqa: F401
