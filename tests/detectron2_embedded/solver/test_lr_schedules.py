"""Learning rate schedules."""

import builtins
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.solver import LRMultiplier, LRScheduler, WarmupCosineLR, WarmupMultiStepLR, WarmupParamScheduler
from fvcore.common.param_scheduler import (
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st

SCHEDULERS = {"MultiStepParamScheduler": MultiStepParamScheduler, "CosineParamScheduler": CosineParamScheduler}
REL = 1e-9


@pytest.fixture(scope="module")
def golden(golden_d2: Path) -> dict[str, Any]:
    return json.loads((golden_d2 / "schedule.json").read_text())


def build(case: dict[str, Any]) -> ParamScheduler:
    arguments = dict(case["scheduler"])
    scheduler = SCHEDULERS[arguments.pop("type")](**arguments)
    return scheduler if case["warmup"] is None else WarmupParamScheduler(scheduler, **case["warmup"])


def sgd(rates: list[float], **options: float) -> torch.optim.SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    for group, rate in zip(groups, rates):
        group.update(dict.fromkeys(options, rate))
    return torch.optim.SGD(groups, lr=0.1)


def rates_of(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.golden
def test_cases(golden: dict[str, Any]) -> None:
    for name, case in golden["cases"].items():
        multiplier = build(case)
        for x, value in case["value_at"]:
            assert multiplier(x) == pytest.approx(value, rel=REL), (name, x)
        optimizer = sgd(golden["base_lrs"])
        scheduler = LRMultiplier(optimizer, multiplier, golden["max_iter"])
        for i, expected in enumerate(case["lr"]):
            assert rates_of(optimizer) == pytest.approx(expected, rel=REL), (name, i)
            optimizer.step()
            scheduler.step()
        assert rates_of(optimizer) == pytest.approx(case["lr_after_last_step"], rel=REL)
        assert scheduler.state_dict() == case["state_dict"]


@pytest.mark.golden
def test_resumed(golden: dict[str, Any]) -> None:
    resumed = golden["resumed"]
    optimizer = sgd(golden["base_lrs"], initial_lr=0)
    scheduler = LRMultiplier(
        optimizer, build(golden["cases"]["multistep_linear"]), golden["max_iter"], last_iter=resumed["last_iter"]
    )
    assert rates_of(optimizer)[0] == pytest.approx(resumed["lr"], rel=REL)
    assert scheduler.last_epoch == resumed["last_epoch"]


@pytest.mark.golden
def test_errors(golden: dict[str, Any]) -> None:
    constant = ConstantParamScheduler(1.0)
    calls = {
        "milestone past the end": lambda: MultiStepParamScheduler([1, 0.1], milestones=[20], num_updates=10),
        "two milestones for two values": lambda: MultiStepParamScheduler([1, 0.1], milestones=[2, 4], num_updates=10),
        "multiplier that is no ParamScheduler": lambda: LRMultiplier(sgd([1.0]), lambda x: x, 10),
        "unknown warmup method": lambda: WarmupParamScheduler(constant, 0.1, 0.1, "cubic"),
        "value beyond 1": lambda: MultiStepParamScheduler([1, 0.1], milestones=[5], num_updates=10)(1.5),
    }
    for name, names in golden["errors"].items():
        with pytest.raises(getattr(builtins, names[0])):
            calls[name]()


@settings(deadline=None)
@given(
    factor=st.floats(0, 1),
    length=st.floats(0.01, 0.9),
    where=st.floats(0, 1),
    method=st.sampled_from(["linear", "constant"]),
    rescale=st.booleans(),
)
def test_warmup(factor: float, length: float, where: float, method: str, rescale: bool) -> None:
    main = LinearParamScheduler(1.0, 0.2)
    value = WarmupParamScheduler(main, factor, length, method, rescale)(where)
    if abs(where - length) < 1e-4:
        return
    if where < length:
        end = 1.0 if rescale else 1 - 0.8 * length
        expected = factor + (end - factor) * where / length if method == "linear" else factor
    else:
        expected = 1 - 0.8 * ((where - length) / (1 - length) if rescale else where)
    assert math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-9)


def test_state_moves_to_another_scheduler() -> None:
    first = sgd([0.1, 0.2])
    scheduler = LRMultiplier(first, LinearParamScheduler(1.0, 0.0), 10)
    for _ in range(4):
        first.step()
        scheduler.step()
    second = sgd([0.1, 0.2])
    other = LRMultiplier(second, LinearParamScheduler(1.0, 0.0), 10)
    second.load_state_dict(first.state_dict())
    other.load_state_dict(scheduler.state_dict())
    for optimizer, s in ((first, scheduler), (second, other)):
        optimizer.step()
        s.step()
    assert rates_of(first) == rates_of(second) == pytest.approx([0.05, 0.1])


def rates_over(scheduler_class: type, steps: int, **arguments: Any) -> list[float]:
    optimizer = sgd([1.0])
    scheduler = scheduler_class(optimizer, **arguments)
    rates = []
    for _ in range(steps):
        rates += rates_of(optimizer)
        optimizer.step()
        scheduler.step()
    return rates


def test_older_multistep() -> None:
    found = rates_over(WarmupMultiStepLR, 7, milestones=[3, 5], warmup_factor=0.2, warmup_iters=4)
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.08, 0.1, 0.01, 0.01])
    found = rates_over(
        WarmupMultiStepLR, 5, milestones=[3], gamma=0.5, warmup_factor=0.2, warmup_iters=2, warmup_method="constant"
    )
    assert found == pytest.approx([0.2, 0.2, 1.0, 0.5, 0.5])


def test_older_cosine() -> None:
    found = rates_over(WarmupCosineLR, 5, max_iters=4, warmup_factor=0.5, warmup_iters=2)
    cosine = [(1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)]
    assert found == pytest.approx([0.5 * cosine[0], 0.75 * cosine[1], *cosine[2:]])


def test_older_schedules_refuse() -> None:
    with pytest.raises(ValueError):
        WarmupMultiStepLR(sgd([1.0]), milestones=[5, 3])
    with pytest.raises(ValueError):
        WarmupCosineLR(sgd([1.0]), max_iters=5, warmup_method="cubic")


def test_older_schedules_go_on() -> None:
    optimizer = sgd([1.0])
    scheduler = WarmupMultiStepLR(optimizer, [3], warmup_iters=2)
    assert isinstance(scheduler, LRScheduler)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    other = WarmupMultiStepLR(sgd([1.0]), [3], warmup_iters=2)
    other.load_state_dict(scheduler.state_dict())
    assert other.get_last_lr() == scheduler.get_last_lr() == pytest.approx([0.1])
