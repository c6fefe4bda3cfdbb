"""Warm-up in iterations, decay in epochs, and what few and many images make of both."""

import functools
import logging
import math

import pytest
from detectron2.config import LazyConfig, instantiate
from fvcore.common.param_scheduler import ConstantParamScheduler, CosineParamScheduler
from helpers.paths import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loradet.training.plan import iterations
from loradet.training.schedule import report_peak, warmup

CONFIGS = ROOT / "configs"


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


@functools.cache
def config(name):
    return LazyConfig.load(str(CONFIGS / name))


@pytest.mark.parametrize("name", ["multistep_1x", "multistep_70_90", "cosine"])
@settings(deadline=None, max_examples=30)
@given(max_iter=st.integers(1, 600))
@example(max_iter=72)
@example(max_iter=500)
def test_the_warmup_takes_a_tenth_of_the_run_at_most(name, max_iter):
    node = config("common/schedule.py")[name].copy()
    node.max_iter = max_iter
    schedule = instantiate(node)
    values = [schedule(i / max_iter) for i in range(max_iter)]
    warm = values.index(max(values))
    assert warm <= max_iter / 10
    assert max(values) >= 0.95


def test_a_warmup_of_a_study_is_as_long_as_it_was_published():
    for name in ("sar_lora_dino/base.py", "vim_ofat/base.py"):
        node = config(name).lr_multiplier.copy()
        node.max_iter = 1000
        schedule = instantiate(node)
        values = [schedule(i / 1000) for i in (0, 250, 499, 500)]
        assert values == pytest.approx([0.001, 0.5005, 0.998, 1.0], abs=1e-3), name


@pytest.mark.parametrize("words", [dict(iterations=-1, factor=0.1), dict(iterations=1, factor=-2.0)])
def test_a_warm_up_is_not_negative(words):
    with pytest.raises(ValueError, match=r"lr_multiplier\.(iterations=-1|factor=-2\.0): expected .* at least 0"):
        warmup(ConstantParamScheduler(1.0), max_iter=10, **words)


def test_a_fraction_of_the_run_is_one():
    with pytest.raises(ValueError, match=r"max_fraction=10: expected a fraction"):
        warmup(ConstantParamScheduler(1.0), iterations=100, factor=0.1, max_iter=1000, max_fraction=10)


@pytest.mark.parametrize("name", ["custom_coco.py", "custom_detr.py"])
@settings(deadline=None, max_examples=50)
@given(images=st.integers(1, 1_000_000))
@example(images=10)
@example(images=48)
@example(images=1_000_000)
def test_a_run_is_sane_for_few_and_for_many_images(name, images):
    """Steps enough to learn, the asked rate, some lines in the log, and neither ever nor never an evaluation."""
    cfg = config(name)
    epoch = math.ceil(images / cfg.data.total_batch_size)
    length, evaluation, saving = (
        iterations(duration, epoch, "train")
        for duration in (cfg.train.max_iter, cfg.train.eval_period, cfg.train.checkpointer.period)
    )
    assert length >= 100
    assert length >= 12 * epoch
    assert length // cfg.train.log_period >= 5
    assert length // evaluation >= 5
    assert min(epoch, 20) <= evaluation <= 10_000
    assert saving <= 5_000
    node = cfg.lr_multiplier.copy()
    node.max_iter = length
    schedule = instantiate(node)
    assert max(schedule(i / length) for i in range(min(length, 200))) >= 0.95


def test_a_peak_under_half_of_the_asked_rate_is_a_warning(caplog):
    caplog.set_level(logging.INFO)
    late = warmup(CosineParamScheduler(1.0, 0.01), iterations=100, factor=0.01, max_iter=72)
    report_peak(late, 72, 1e-3)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "peaks at 1.05e-05 (iteration 71 of 72), under half of optimizer.lr=0.001" in record.getMessage()
    caplog.clear()
    report_peak(warmup(CosineParamScheduler(1.0, 0.01), 100, 0.01, 72, max_fraction=0.1), 72, 1e-3)
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert "(iteration 7 of 72)" in record.getMessage()


def test_a_run_without_an_iteration_has_no_peak(caplog):
    report_peak(ConstantParamScheduler(0.1), 0, 1e-3)
    assert not caplog.records


def test_the_peak_of_a_very_long_run_is_found_at_once():
    calls = []
    schedule = warmup(CosineParamScheduler(1.0, 0.01), 100, 0.01, 1_500_000)
    report_peak(lambda where: calls.append(where) or schedule(where), 1_500_000, 1e-3)
    assert len(calls) <= 10_001
