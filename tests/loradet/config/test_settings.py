"""Durations, batch plans, unknown keys."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from loradet.backbones.precision import amp_dtype
from loradet.config.overrides import check_overrides
from loradet.config.settings import TrainSettings, complete_train_settings
from loradet.errors import UserError
from loradet.training.plan import iterations, plan_batch


@pytest.mark.parametrize(
    ("duration", "expected"), [(90, 90), (0, 0), ("12 epochs", 120), ("1 epoch", 10), ("0.5 epochs", 5)]
)
def test_durations(duration, expected):
    assert iterations(duration, 10, "train.max_iter") == expected


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        ("12 epochs, at least 100", 120),
        ("12 epochs, at least 150 iterations", 150),
        ("12 epochs, at most 50 iterations", 50),
        ("1 epoch, at least 20, at most 30 iterations", 20),
        ("9 epochs, at least 20, at most 30", 30),
    ],
)
def test_durations_have_bounds(duration, expected):
    assert iterations(duration, 10, "train.max_iter") == expected


@pytest.mark.parametrize(
    "duration",
    [
        *("12", "epochs", "-1 epochs", 1.5, True, -3, None),
        *("2 epochs, at least", "2 epochs at least 3", "at least 3", "2 epochs, at least 9, at most 8 iterations"),
    ],
)
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
        ("train.max_itr=6", r"no key 'train.max_itr'.*Nearest: train\.max_iter"),
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


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"log_period": "often"}, r"train\.log_period='often': expected a whole number\."),
        ({"log_period": 2.0}, r"train\.log_period=2\.0: expected a whole number\."),
        ({"log_period": "20"}, r"train\.log_period='20': expected a whole number\."),
        ({"seed": True}, r"train\.seed=True: expected a whole number\."),
        ({"seed": None}, r"train\.seed=None: expected a whole number\."),
        ({"overwrite": "yes"}, r"train\.overwrite='yes': expected true or false\."),
        ({"overwrite": 1}, r"train\.overwrite=1: expected true or false\."),
        ({"ddp": {"find_unused_parameters": 1}}, r"train\.ddp\.find_unused_parameters=1: expected true or false\."),
        ({"clip_grad": {"max_norm": "1"}}, r"train\.clip_grad\.max_norm='1': expected a number, or null\."),
        ({"clip_grad": {"max_norm": True}}, r"train\.clip_grad\.max_norm=True: expected a number, or null\."),
        ({"clip_grad": {"max_norm": float("nan")}}, r"train\.clip_grad\.max_norm=nan: expected a number, or null"),
        ({"ema": {"decay": None}}, r"train\.ema\.decay=None: expected a number\."),
        ({"device": 3}, r"train\.device=3: expected a text\."),
        ({"device": ["cpu"]}, r"train\.device=\['cpu'\]: expected a text\."),
        ({"hub": {"repo_id": 5}}, r"train\.hub\.repo_id=5: expected a text, or null\."),
        ({"hub": {"repo_id": " "}}, r"train\.hub\.repo_id is empty"),
        ({"eval_splits": "val"}, r"train\.eval_splits='val': expected a list of names"),
        ({"eval_splits": ["val", 3]}, r"train\.eval_splits=\['val', 3\]: expected a list of names"),
        ({"max_iter": 1.5}, r"train\.max_iter=1\.5: expected a number of iterations or a text such as"),
        ({"max_iter": True}, r"train\.max_iter=True: expected a number of iterations"),
        ({"max_iter": None}, r"train\.max_iter=None: expected a number of iterations"),
        ({"checkpointer": {"max_to_keep": 0}}, r"train\.checkpointer\.max_to_keep=0: expected more than 0"),
        ({"wandb": {"project": "a", "mode": "on"}}, r"train\.wandb\.mode=.on.: expected .*.disabled. or null"),
        ({"wandb": {"name": "a"}}, r"train\.wandb\.name='a' has no effect without train\.wandb\.project"),
        ({"smoke": True, "eval_splits": []}, r"train\.smoke=True: expected one split"),
        ({"amp": True}, r"train\.amp=True: expected keys enabled, dtype with values"),
        ("fast", r"train='fast': expected settings by name"),
    ],
)
def test_a_wrong_value_is_told_with_its_key_and_what_is_right(train, message):
    with pytest.raises(UserError, match=message):
        complete_train_settings(OmegaConf.create({"train": train}))


def test_values_of_the_right_type_stay_as_they_are():
    given = {
        "seed": -1,
        "init_checkpoint": None,
        "clip_grad": {"max_norm": 1, "norm_type": 2},
        "checkpointer": {"period": 0, "max_to_keep": None},
        "eval_splits": [],
        "ddp": {"static_graph": True, "bucket_cap_mb": 3.5},
        "trackio": {"project": "ships"},
    }
    cfg = OmegaConf.create({"n": 3, "train": {**given, "log_period": "${n}"}})
    complete_train_settings(cfg)
    found = OmegaConf.to_container(cfg.train)
    assert found["log_period"] == "${n}"
    for key, value in given.items():
        assert found[key] == {**found[key], **value} if isinstance(value, dict) else found[key] == value
    assert type(cfg.train.clip_grad.max_norm) is int  # the hash of a config does not change
    assert [*found] == [*OmegaConf.to_container(OmegaConf.structured(TrainSettings))]
