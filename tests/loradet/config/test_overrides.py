"""Overrides as users type them: paths, texts, lists, and what is refused in which words."""

import copy
import math
import re
import shlex

import pytest
from detectron2.config import LazyConfig
from helpers.paths import ROOT, TEST_CONFIGS
from omegaconf import OmegaConf

from loradet.config.calls import check_calls
from loradet.config.load import complete
from loradet.config.overrides import apply_overrides
from loradet.errors import UserError

CONFIG = str(TEST_CONFIGS / "tiny.py")


_PLAIN = LazyConfig.load(CONFIG)


def load(*overrides):
    return complete(copy.deepcopy(_PLAIN), ["data.root=/data", *overrides])


def refusal(*overrides) -> str:
    with pytest.raises(UserError) as caught:
        load(*overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


PATHS = {
    "~/my_data": "~/my_data",
    "/a (b)/c=d, e": "/a (b)/c=d, e",
    "/straße/日本": "/straße/日本",
    "/a&b;c#d!/[1]{2}": "/a&b;c#d!/[1]{2}",
    "'/a b'": "/a b",
    '"/a b"': "/a b",
    "/it's": "/it's",
    "2024": "2024",
    "1e5": "1e5",
    "true": "true",
    r"/a\ b\(c\)": "/a b(c)",
    r"C:\data": r"C:\data",
    "/${data.name}/x": "/tiny/x",
}


@pytest.mark.parametrize("typed", PATHS)
def test_a_path_is_taken_as_it_is(typed):
    assert load(f"data.root={typed}").data.root == PATHS[typed]


@pytest.mark.parametrize("key", ["data.val_images", "data.train_json", "train.init_checkpoint", "train.output_dir"])
def test_every_key_of_a_path_takes_one(key):
    assert OmegaConf.select(load(f"{key}=/a (b)/c=d, e"), key) == "/a (b)/c=d, e"


def test_a_path_below_the_home_is_found_there_where_nothing_else_looks_for_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    cfg = load("train.output_dir=~/runs/a", "train.init_checkpoint=~/a.pth")
    assert (cfg.train.output_dir, cfg.train.init_checkpoint) == ("/home/me/runs/a", "/home/me/a.pth")


def test_weights_are_a_path_where_the_model_takes_one_and_numbers_where_it_takes_those():
    module = "model.backbone.bottom_up.module.module"
    cfg = load(f"+{module}.weights=~/a (1).pth", "model.box2box_transform.weights=[2,2,1,1]")
    assert OmegaConf.select(cfg, f"{module}.weights") == "~/a (1).pth"
    assert cfg.model.box2box_transform.weights == [2, 2, 1, 1]
    assert OmegaConf.select(load(f"+{module}.weights=null"), f"{module}.weights") is None


def test_a_path_that_the_model_refers_to():
    cfg = LazyConfig.load(str(ROOT / "configs/coco_detr_lora/detr_r50_full.py"))
    assert complete(cfg, ["init.resnet50=~/a=b (c).pth"]).init.resnet50 == "~/a=b (c).pth"


def test_another_text_that_the_grammar_does_not_have():
    assert load("data.name=häuser (1)").data.name == "häuser (1)"


VALUES = {
    "optimizer.lr=0.001": 0.001,
    "optimizer.lr=1": 1,
    "optimizer.betas=[0.9,0.99]": [0.9, 0.99],
    "train.max_iter=3 epochs": "3 epochs",
    'train.max_iter="3 epochs"': "3 epochs",
    "train.init_checkpoint=": "",
    "data.classes=[ship,car]": ["ship", "car"],
    'data.classes=["ship (large)","a, b"]': ["ship (large)", "a, b"],
    "data.classes=null": None,
    "data.image_size=[64,96]": [64, 96],
    "model.num_classes=6": 6,
    "model.backbone.norm=GN": "GN",
    "model.head.input_shape[0].channels=16": 16,
    "+dataloader.train.prefetch_factor=8": 8,
    "optimizer.weight_decay=${optimizer.lr}": 0.001,
}


@pytest.mark.parametrize("override", VALUES)
def test_what_fits_is_taken(override):
    key = override.partition("=")[0].lstrip("+").replace("[", ".").replace("]", "")
    value = OmegaConf.select(load(override), key)
    assert value == VALUES[override] and type(value) in (type(VALUES[override]), type(OmegaConf.create([])))


REFUSED = {
    "train.amp=???": r"'train\.amp=\?\?\?': \?\?\? stands for a value that is missing",
    "model.num_classes='3'": "model.num_classes='3': expected a whole number .*RetinaNet.*write model.num_classes=3",
    "model.num_classes=6.0": "model.num_classes=6.0: expected a whole number",
    "model.num_classes=true": "model.num_classes=True: expected a whole number",
    "model.num_classes=[1": r"model.num_classes='\[1': expected a whole number",
    "model.test_score_thresh=5%": "model.test_score_thresh='5%': expected a number",
    "model.test_score_thresh=nan": "model.test_score_thresh=nan: expected a number",
    "model.test_score_thresh=2": r"model.test_score_thresh=2: expected a number from 0 to 1 \(test_score_thresh of Ret",
    "model.test_nms_thresh=-1": "model.test_nms_thresh=-1: expected a number from 0 to 1",
    "model.max_detections_per_image=-5": "model.max_detections_per_image=-5: expected at least 1",
    "model.pixel_std=[nan,1,1]": r"model.pixel_std=\[nan, 1, 1\]: expected a list of numbers",
    "data.image_size=-3": "data.image_size=-3: expected pixels, 0 for images as they are",
    "data.image_size=[64,-80]": r"data.image_size=\[64, -80\]: expected pixels",
    "data.max_size=0": "data.max_size=0: expected at least 1 pixel",
    "train.seed=99999999999999999999": "train.seed=99999999999999999999: expected a whole number up to 4000000000",
    "train.early_stopping.min_delta=nan": "train.early_stopping.min_delta=nan: expected a number",
    "model.input_format=5": "model.input_format=5: expected a text",
    "data.classes=[ship": "a bracket is not closed",
    "model.pixel_mean=[1,2,x]": r"model.pixel_mean=\[1, 2, 'x'\]: expected a list of numbers",
    "model.backbone=null": "model.backbone=null: expected an object of class Backbone",
    "model.head.conv_dims=16": "model.head.conv_dims=16: expected a list of whole numbers",
    "model.backbone.bottom_up.rank=2.5": r"rank=2.5: expected a whole number \(rank of lora\)",
    "model.backbone.bottom_up.targets=mlp.fc1": "targets='mlp.fc1': expected a list of texts",
    "model.box2box_transform.weights=abc": "weights='abc': expected a list of 4 numbers",
    "data.image_size=64.5": "data.image_size=64.5: expected a whole number or a list of whole numbers",
    "data.max_size=null": "data.max_size=null: expected a whole number",
    "data.classes=ship": "data.classes='ship': expected a list of texts or null",
    "data.root=null": "data.root=null: expected a path",
    "dataloader.train.total_batch_size=null": "dataloader.train.total_batch_size=null: expected a whole number",
    "dataloader.val.num_workers=x": "dataloader.val.num_workers='x': expected a whole number",
    "dataloader.train.dataset.filter_empty=maybe": "filter_empty='maybe': expected true or false",
    "dataloader.evaluator=5": "dataloader.evaluator=5: expected keys with values",
    "optimizer.lr=null": r"optimizer.lr=null: expected a number \(lr of AdamW\)",
    "optimizer.lr=abc": "optimizer.lr='abc': expected a number",
    "optimizer.lr=1(2": r"optimizer.lr='1\(2': expected a number",
    "optimizer.betas=[0.9]": r"optimizer.betas=\[0.9\]: expected a list of 2 numbers",
    "lr_multiplier.scheduler.start_value=x": "start_value='x': expected a number",
    "optimizer.lr=${optimizer.lr}": r"Override 'optimizer.lr=\$\{optimizer.lr\}'",
    "optimizer.lr=${nothing}": "Override .*nothing",
    "+model.numclasses=6": "model.numclasses: unexpected keyword argument 'numclasses' of RetinaNet; nearest: num_cl",
    "optimizer._target_=torch.optim.SGD": "optimizer.betas: unexpected keyword argument 'betas' of SGD",
    "optimizer._target_=torch.optim.Nope": "optimizer._target_='torch.optim.Nope': there is no such class or function",
    "model=3": "model=3: expected keys with values",
    "train=null": "train=null: expected keys with values",
    "train.eval_splits=val": "train.eval_splits='val': expected a list of names",
    "optimizer.lr.x=3": "no key 'optimizer.lr.x'",
    "+optimizer.lr.x=3": r"Override '\+optimizer.lr.x=3': optimizer.lr is 0.001, which has no keys",
    "+model.pixel_std.new=3": "model.pixel_std is a list: its items are 0 to 2, and new is none",
    "+a b=3": "'a b' is no key",
    "~optimizer.lr": "Override '~optimizer.lr': keys cannot be deleted; optimizer.lr=null empties one",
    "optimizer.lr=0.1,0.2": "Override 'optimizer.lr=0.1,0.2' lists several values, and a run takes one",
    "optimizer.lr=choice(0.1,0.2)": "lists several values",
    "optimizer.lr=range(1,3)": "lists several values",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_does_not_fit_is_refused_by_key_and_value(override):
    assert re.search(REFUSED[override], line := refusal(override)), line


QUOTED = {
    "data.classes=[ship (large),car]": """'data.classes=["ship (large)",car]'""",
    "data.classes=[fußgänger,auto]": """'data.classes=["fußgänger",auto]'""",
    "data.classes=[a[b],c]": """'data.classes=["a[b]",c]'""",
    "data.classes=[ship (a, b),c]": """'data.classes=["ship (a, b)",c]'""",
    "+anything=a (b)": """'anything="a (b)"'""",
}


@pytest.mark.parametrize("override", QUOTED)
def test_the_broken_one_alone_is_named_with_the_quoted_form_that_works(override):
    line = refusal("optimizer.lr=0.5", override, "train.seed=7")
    assert override in line and "optimizer.lr" not in line and "train.seed" not in line
    assert f"write {QUOTED[override]}" in line
    (word,) = shlex.split(QUOTED[override])
    assert load(word if override[0] != "+" else f"+{word}") is not None


def test_every_override_sees_what_those_before_it_changed():
    cfg = apply_overrides(load(), ["+a.b=1", "a.b=2", "+c=${a.b}"])
    assert cfg.c == 2


def test_infinity_is_a_number():
    assert math.isinf(load("train.best.metric=x", "optimizer.weight_decay=inf").optimizer.weight_decay)


FILES = sorted(path for path in (ROOT / "configs").rglob("*.py") if path.name != "study.py")
QUICK = {"quickstart.py", "custom_detr.py", "lora.py", "full.py", "fasterrcnn_r50_fpn_baseline.py", "rmsprop.py"}


@pytest.mark.parametrize(
    "file",
    [pytest.param(f, marks=() if f.name in QUICK else pytest.mark.slow, id=str(f.relative_to(ROOT))) for f in FILES],
)
def test_no_config_of_the_project_is_refused(file):
    """Also those that leave open by None what a study gives."""
    check_calls(LazyConfig.load(str(file)))
