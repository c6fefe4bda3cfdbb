"""`data.num_classes` is the one place for the number of classes; every detector refers to it."""

import json

import pytest
from detectron2.config import LazyConfig, instantiate
from helpers.paths import ROOT
from omegaconf import OmegaConf

from loradet.config import load_config
from loradet.config.edits import with_num_classes

COMMON = ROOT / "configs/common"
# Keys of each detector that end at the number.
KEYS = {
    "retinanet_timm": ["model.num_classes", "model.head.num_classes"],
    "retinanet_vit": ["model.num_classes", "model.head.num_classes"],
    "faster_rcnn_fpn": ["model.roi_heads.num_classes", "model.roi_heads.box_predictor.num_classes"],
    "cascade_rcnn": ["model.roi_heads.num_classes", "model.roi_heads.box_predictors.2.num_classes"],
    "cascade_rcnn_sfp": ["model.roi_heads.num_classes", "model.roi_heads.box_predictors.0.num_classes"],
    "detr": ["model.num_classes"],
}
PARTS = """
from detectron2.config import LazyConfig
data, dataloader = LazyConfig.load({file!r}, ("data", "dataloader"))
model = LazyConfig.load({model!r}, "model")
train = LazyConfig.load({train!r}, "train")
"""


@pytest.fixture
def config(tmp_path):
    """Writes a config of a model and data, with lines of its own, and loads it."""

    def load(model, *overrides, data="data", lines=""):
        file = tmp_path / "mine.py"
        train, network = COMMON / "train.py", COMMON / "models" / f"{model}.py"
        text = PARTS.format(file=str(COMMON / f"{data}.py"), model=str(network), train=str(train))
        file.write_text(text + lines)
        return load_config(str(file), list(overrides))

    return load


def numbers(cfg, keys):
    return [instantiate(OmegaConf.select(cfg, key)) for key in keys]


@pytest.mark.parametrize("model", KEYS)
def test_one_override_is_of_every_detector(config, model):
    keys = KEYS[model]
    assert numbers(config(model, "data.root=/none", "data.num_classes=3"), keys) == [3] * len(keys)
    # The model's own key, as before.
    assert numbers(config(model, "data.root=/none", f"{keys[0]}=5"), keys) == [5] * len(keys)


def test_without_one_it_is_counted(config, tmp_path):
    file = tmp_path / "train.json"
    categories = [{"id": i, "name": f"c{i}"} for i in range(4)]
    file.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    keys = KEYS["cascade_rcnn"]
    assert numbers(config("cascade_rcnn", "data.root=/none", f"data.train_json={file}"), keys) == [4, 4]


@pytest.mark.parametrize("data", ["yolo", "voc", "roboflow", "synthetic"])
def test_every_kind_of_data_has_it(config, data):
    root = "data.data_yaml=/none" if data == "yolo" else "data.root=/none"
    cfg = config("retinanet_timm", root, "data.classes=[a,b,c]", data=data)
    assert numbers(cfg, ["model.num_classes", "data.num_classes"]) == [3, 3]
    assert numbers(with_num_classes(cfg.model, 7), ["num_classes", "head.num_classes"]) == [7, 7]


@pytest.mark.parametrize("data", ["yolo", "voc"])
def test_a_config_of_before_takes_it_from_the_datas_file(tmp_path, data):
    place = tmp_path / "configs"
    place.symlink_to(ROOT / "configs")
    (tmp_path / "mine.py").write_text(
        f"from .configs.common.{data} import data, num_classes\n"
        "from .configs.common.models.detr import model\n"
        "from .configs.common.train import train\n"
        "model.num_classes = num_classes\n"
    )
    root = "data.data_yaml=/none" if data == "yolo" else "data.root=/none"
    cfg = load_config(str(tmp_path / "mine.py"), [root, "data.classes=[a,b]"])
    assert numbers(cfg, ["model.num_classes"]) == [2]


def test_data_of_ones_own_need_not_have_it(config):
    cfg = config("retinanet_timm", "data.root=/none", "data.classes=[a,b]", lines="del data.num_classes")
    assert numbers(cfg, KEYS["retinanet_timm"]) == [2, 2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.num_classes=2", "data.classes=[a,b,c]"], r"data\.num_classes=2, but data\.classes names 3: a, b, c\."),
        (["data.num_classes='3'"], r"data\.num_classes='3': expected a whole number .*write data\.num_classes=3"),
        (["model.num_classes='3'"], r"model\.num_classes='3': expected a whole number .*write model\.num_classes=3"),
        (["model.head.num_classes=x"], r"model\.head\.num_classes='x': expected a whole number"),
    ],
)
def test_what_cannot_be_is_one_line(config, overrides, message):
    with pytest.raises(ValueError, match=message):
        config("retinanet_timm", "data.root=/none", *overrides)


def test_a_key_below_a_reference_is_that_of_what_it_leads_to(config):
    cfg = config("retinanet_timm", "data.root=/none", "model.num_classes.json_file=/mine.json")
    assert cfg.data.num_classes.json_file == "/mine.json"
    assert cfg.data.num_classes._target_.__name__ == "count_classes"


def test_a_head_may_have_a_number_of_its_own(config):
    cfg = config("retinanet_timm", "data.root=/none", "data.num_classes=3", "model.head.num_classes=4")
    assert numbers(cfg, KEYS["retinanet_timm"]) == [3, 4]


@pytest.mark.parametrize("model", KEYS)
def test_without_data_the_number_is_put_in_the_models_place(model):
    keys = [key.removeprefix("model.") for key in KEYS[model]]
    alone = LazyConfig.load(str(COMMON / "models" / f"{model}.py")).model
    assert numbers(with_num_classes(alone, 6), keys) == [6] * len(keys)
