"""Durations, batch plans, unknown keys."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from loradet.config.overrides import check_overrides
from loradet.config.settings import complete_train_settings
from loradet.precision import amp_dtype
from loradet.training.plan import iterations, plan_batch


@pytest.mark.parametrize(
    ("duration", "expected"), [(90, 90), (0, 0), ("12 epochs", 120), ("1 epoch", 10), ("0.5 epochs", 5)]
)
def test_durations(duration, expected):
    assert iterations(duration, 10, "train.max_iter") == expected


@pytest.mark.parametrize("duration", ["12", "epochs", "-1 epochs", 1.5, True, -3, None])
def test_bad_duration_names_its_key(duration):
    with pytest.raises(ValueError, match=r"train\.max_iter"):
        iterations(duration, 10, "train.max_iter")


def test_epochs_need_a_loader_that_knows_its_length():
    with pytest.raises(ValueError, match="give iterations"):
        iterations("2 epochs", None, "train.max_iter")


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 64))
def test_plan_spreads_the_batch_evenly_within_the_limit(per_gpu, world_size, limit):
    plan = plan_batch(per_gpu * world_size, world_size, max_batch_per_gpu=limit)
    assert plan.per_forward <= limit
    assert plan.per_forward * plan.accumulate * plan.world_size == plan.total == per_gpu * world_size
    # The fewest micro-batches that fit.
    assert all(per_gpu % fewer or per_gpu // fewer > limit for fewer in range(1, plan.accumulate))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(total=10, world_size=4), "cannot be divided over 4 processes"),
        (dict(total=2, world_size=4), "cannot be divided over 4 processes"),
        (dict(total=8, world_size=2, accumulate=3), "train.accumulate=3"),
        (dict(total=8, world_size=1, max_batch_per_gpu=0), "at least 1"),
    ],
)
def test_indivisible_batches_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_batch(**arguments)


def test_missing_train_keys_take_defaults_and_given_ones_stay():
    cfg = OmegaConf.create({"train": {"max_iter": 7, "amp": {"enabled": True}}})
    complete_train_settings(cfg)
    assert cfg.train.max_iter == 7
    assert cfg.train.amp == {"enabled": True, "dtype": "bf16"}
    assert cfg.train.seed == 0


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"max_itre": 7}, r"train\.max_itre.*train\.max_iter"),
        ({"amp": {"enable": True}}, r"train\.amp\.enable .*train\.amp\.enabled"),
        ({"amp": {"dtype": "fp8"}}, "bf16"),
        ({"best": {"mode": "largest"}}, r"train\.best\.mode"),
        ({"accumulate": 0}, r"train\.accumulate"),
        ({"accumulate": 2, "max_batch_per_gpu": 4}, "both set"),
        ({"ema": {"decay": 1.0}}, r"train\.ema\.decay"),
        ({"log_period": 0}, r"train\.log_period"),
    ],
)
def test_bad_train_settings(train, message):
    with pytest.raises(ValueError, match=message):
        complete_train_settings(OmegaConf.create({"train": train}))


CONFIG = {
    "train": {"max_iter": 5, "output_dir": "out"},
    "model": {"anchors": [{"size": 8}], "num_classes": "${data.count}", "head": "${other}", "missing": "???"},
    "other": {"width": 3},
    "data": {"count": 2},
}


@pytest.mark.parametrize(
    "override",
    [
        "train.max_iter=6",
        "model.anchors.0.size=4",
        "model.anchors[0].size=4",
        "model.num_classes=3",
        "model.head.width=4",
        "model.missing=1",
        "+train.new=1",
        "++train.new=1",
    ],
)
def test_known_keys_pass_and_nothing_is_changed(override):
    cfg = OmegaConf.create(CONFIG)
    check_overrides(cfg, [override])
    assert cfg == OmegaConf.create(CONFIG)


def test_a_key_whose_value_hangs_on_a_missing_one_can_be_overridden_beside_it():
    cfg = OmegaConf.create({"data": {"root": "???", "train_json": "${data.root}/train.json"}})
    check_overrides(cfg, ["data.root=/here", "data.train_json=/there.json"])
    with pytest.raises(ValueError, match=r"no key 'data\.train_jsn'"):
        check_overrides(cfg, ["data.root=/here", "data.train_jsn=/there.json"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_itr=6", r"no key 'train.max_itr'.*Nearest: train\.max_iter.*\+train\.max_itr=6"),
        ("max_iter=6", r"Nearest: .*train\.max_iter"),
        ("model.anchors.1.size=4", "no key"),
        ("train.max_iter.deeper=1", "no key"),
        ("train.max_iter", "expected key=value"),
        ("=3", "expected key=value"),
    ],
)
def test_unknown_keys_are_errors_that_name_the_nearest(override, message):
    with pytest.raises(ValueError, match=message):
        check_overrides(OmegaConf.create(CONFIG), ["train.max_iter=1", override])


def test_auto_precision_is_bf16_where_the_device_computes_in_it(monkeypatch):
    assert amp_dtype("fp16", torch.device("cpu")) is torch.float16
    assert amp_dtype("auto", torch.device("cpu")) is torch.bfloat16
    asked = {}
    for native in (True, False):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda native=native, **words: asked.update(words) or native
        )
        assert amp_dtype("auto", torch.device("cuda")) is (torch.bfloat16 if native else torch.float16)
    assert asked == {"including_emulation": False}
