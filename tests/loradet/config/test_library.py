"""The project's own configs: by name from anywhere, and copied to edit."""

import pytest
from omegaconf import OmegaConf

import loradet
from loradet.config import load_config
from loradet.config.library import LIBRARY, copy_config, find_config, list_configs
from loradet.errors import MissingFileError, UserError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "name", ["quickstart", "quickstart.py", "configs/quickstart.py", str(LIBRARY / "quickstart.py")]
)
def test_a_name_is_found_from_any_folder(name):
    assert find_config(name) == LIBRARY / "quickstart.py"


def test_a_file_comes_before_the_library(tmp_path):
    (tmp_path / "quickstart.py").write_text("train = dict()\n")
    assert find_config("quickstart.py").resolve() == tmp_path / "quickstart.py"


@pytest.mark.parametrize("name", ["custom_cocoo.py", "configs/custom_cocoo.py", "sar_lora_dino/custom_coco"])
def test_another_name_lists_the_nearest(name):
    with pytest.raises(MissingFileError, match=r"does not exist.*nearest: .*custom_coco\.py"):
        load_config(name, [])


def test_names_do_not_leave_the_library():
    with pytest.raises(MissingFileError):
        find_config("../setup.py")


def test_get_config_gives_the_whole_or_parts():
    whole = loradet.get_config("common/models/retinanet_timm.py")
    assert whole.model.head.num_anchors == 9
    assert loradet.get_config("common/models/retinanet_timm.py", "model") == whole.model
    frozen, slim = loradet.get_config("common/backbones.py", "atto_frozen", "slim")
    slim(whole.model)
    assert whole.model.backbone.out_channels == 64 and frozen.module.model_name == "convnext_atto"
    assert loradet.get_config("common/models/retinanet_timm.py").model.backbone.out_channels == 256  # loaded anew


def test_what_can_be_trained_is_listed():
    listed = list_configs()
    assert listed["quickstart.py"].startswith("LoRA on a frozen ConvNeXt")
    assert "common/data.py" not in listed and "sar_lora_dino/study.py" not in listed
    assert all(listed.values())


ONE_OF_EACH_FOLDER = sorted({name.rpartition("/")[0]: name for name in list_configs()}.values())


@pytest.mark.parametrize("name", [*ONE_OF_EACH_FOLDER, "custom_coco.py", "custom_yolo.py", "detr_shapes.py"])
def test_a_copy_is_the_same_config(name, tmp_path):
    copy = copy_config(name, tmp_path / "mine")
    assert "from ." not in copy.read_text()
    original, copied = (load_config(str(file), []) for file in (LIBRARY / name, copy))
    assert OmegaConf.to_yaml(copied, resolve=False) == OmegaConf.to_yaml(original, resolve=False)


def test_a_copy_never_overwrites(tmp_path):
    copy_config("quickstart", tmp_path)
    with pytest.raises(UserError, match="exists already"):
        copy_config("quickstart", tmp_path)
