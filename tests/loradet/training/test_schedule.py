"""Warm-up in iterations, decay in epochs."""

from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from fvcore.common.param_scheduler import ConstantParamScheduler

from loradet.training.schedule import warmup

CONFIGS = Path(__file__).parents[3] / "configs"


def test_warmup_rises_linearly_to_the_schedule():
    schedule = warmup(ConstantParamScheduler(1.0), iterations=100, factor=0.1, max_iter=1000)
    assert [schedule(i / 1000) for i in (0, 50, 100, 999)] == pytest.approx([0.1, 0.55, 1.0, 1.0])


@pytest.mark.parametrize(("max_iter", "expected"), [(1, [1.0]), (2, [0.0, 1.0]), (5, [0.0, 0.25, 0.5, 0.75, 1.0])])
def test_warmup_longer_than_the_run_ends_with_it(max_iter, expected):
    schedule = warmup(ConstantParamScheduler(1.0), iterations=500, factor=0.0, max_iter=max_iter)
    assert [schedule(i / max_iter) for i in range(max_iter)] == pytest.approx(expected)


def test_multistep_falls_after_8_and_11_of_12_epochs():
    cfg = LazyConfig.load(str(CONFIGS / "common" / "schedule.py"))
    cfg.multistep_1x.max_iter = 12000
    schedule = instantiate(cfg.multistep_1x)
    values = [schedule(epoch * 1000 / 12000) for epoch in (1, 7.99, 8.01, 10.99, 11.01)]
    assert values == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])
