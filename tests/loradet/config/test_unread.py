"""Overrides that would change nothing are said, in place of a result that is not what was asked for."""

import copy
import logging

import pytest
from detectron2.config import LazyConfig
from helpers.paths import TEST_CONFIGS
from omegaconf import OmegaConf

from loradet.config.load import complete
from loradet.errors import UserError

_PLAIN = LazyConfig.load(str(TEST_CONFIGS / "tiny.py"))


@pytest.fixture
def saved():
    """A config as a run leaves it: classes and places are values."""
    cfg = complete(copy.deepcopy(_PLAIN), ["data.root=/data", "data.classes=[ship,car]", "model.num_classes=2"])
    OmegaConf.resolve(cfg)
    return cfg


@pytest.mark.parametrize(
    ("override", "holder"),
    {
        "data.root=/mine": "dataloader.val.dataset.json_file, ",
        "data.val_json=/mine/val.json": "dataloader.val.dataset.json_file",
        "data.image_size=80": "short_edge_length",
        "data.classes=[car,ship]": "dataloader.train.dataset.classes, ",
        "data.train_json=/mine/train.json": "dataloader.train.dataset.json_file",
    }.items(),
)
def test_data_of_a_saved_config_is_not_moved_in_silence(saved, override, holder):
    with pytest.raises(UserError) as caught:
        complete(saved, [override])
    message = str(caught.value)
    assert f"Override {override.partition('=')[0]}=" in message and "would change nothing" in message
    assert holder in message and "\n" not in message


def test_the_same_value_again_is_fine_and_what_holds_it_can_be_said(saved):
    complete(copy.deepcopy(saved), ["data.root=/data", "data.classes=[ship,car]"])
    changed = complete(saved, ["dataloader.val.dataset.json_file=/mine/val.json", "+data.note=mine"])
    assert changed.dataloader.val.dataset.json_file == "/mine/val.json"


def test_an_added_key_that_nothing_refers_to_is_warned_of(saved, caplog):
    words = ["+data.note=mine", "+data.height=64", "data.image_size='${data.height}'"]
    complete(copy.deepcopy(saved), words[:1])
    assert "+data.note: nothing in this config refers to it, so that it changes nothing" in caplog.text
    caplog.clear()
    complete(copy.deepcopy(_PLAIN), ["data.root=/data", *words[1:]], needs_data=False)
    assert "+data.height" not in caplog.text


def test_who_needs_no_data_takes_places_and_names_of_it(saved):
    words = ["data.classes=[car,ship]", "data.root=/mine"]
    assert complete(copy.deepcopy(saved), words, needs_data=False).data.classes == ["car", "ship"]
    with pytest.raises(UserError, match=r"data\.image_size"):
        complete(saved, ["data.image_size=80"], needs_data=False)


def test_what_a_file_refers_to_is_read():
    cfg = complete(copy.deepcopy(_PLAIN), ["data.root=/mine", "data.intensity=full_range", "data.classes=[ship]"])
    assert cfg.dataloader.val.dataset.json_file == "/mine/Annotations/val.json"
    with pytest.raises(UserError, match=r"nothing in this config refers to data\.total_batch_size"):
        complete(copy.deepcopy(_PLAIN), ["data.root=/mine", "data.total_batch_size=2"])  # the file has a number there


def test_a_setting_that_stays_elsewhere_is_a_warning(saved, caplog):
    with caplog.at_level(logging.WARNING):
        complete(copy.deepcopy(saved), ["train.seed=5"])
    assert "train.seed=5 leaves dataloader.train.seed at 0" in caplog.text
    caplog.clear()
    complete(saved, ["train.max_iter=9", "lr_multiplier.max_iter=9", "train.log_period=3"])
    complete(copy.deepcopy(_PLAIN), ["train.seed=5", "train.max_iter=9"])
    assert not caplog.text


def test_keys_of_train_with_one_name_have_nothing_to_do_with_each_other(saved, caplog):
    assert complete(saved, ["train.compile.enabled=True"]).train.ema.enabled is False
    assert "leaves" not in caplog.text
