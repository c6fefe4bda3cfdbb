"""A training runs its config file once a process: what the file registers is registered once."""

import shutil

import pytest
from detectron2.data import DatasetCatalog
from detectron2.modeling import BACKBONE_REGISTRY
from helpers.paths import TEST_CONFIGS
from helpers.train_tool import ROOT, arguments, call, start

SETTINGS = ["train.max_iter=1", "train.eval_period=0", "train.checkpointer.period=0", "dataloader.train.num_workers=0"]

BACKBONE = """
from detectron2.modeling import BACKBONE_REGISTRY

from loradet.backbones import TimmBackbone


@BACKBONE_REGISTRY.register()
class RunOnceBackbone(TimmBackbone):
    pass
"""

CONFIG = """
import os

from detectron2.data.datasets import register_coco_instances

from .my_backbone import RunOnceBackbone

register_coco_instances("run_once", {}, "annotations.json", "images")
model.backbone.bottom_up.module.module._target_ = RunOnceBackbone
with open(__file__ + ".runs", "a") as _file:
    _file.write(f"{os.getpid()}\\n")
"""


@pytest.fixture
def config(tmp_path):
    """A config beside a copy of those it imports, which registers a data set and, by an import, a backbone."""
    folder = tmp_path / "own" / "tests" / "configs"
    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "configs", tmp_path / "own" / "configs")
    (folder / "my_backbone.py").write_text(BACKBONE)
    file = folder / "config.py"
    file.write_text((TEST_CONFIGS / "tiny.py").read_text() + CONFIG)
    yield file
    BACKBONE_REGISTRY._obj_map.pop("RunOnceBackbone", None)
    if "run_once" in DatasetCatalog.list():
        DatasetCatalog.remove("run_once")


def runs(config):
    return config.with_name(config.name + ".runs").read_text().split()


def test_a_training(config, train_data, tmp_path):
    status, stderr = call(*arguments(train_data, tmp_path / "out", *SETTINGS, config=config))
    assert status == 0, stderr
    assert len(runs(config)) == 1
    assert "run_once" in DatasetCatalog.list() and "RunOnceBackbone" in BACKBONE_REGISTRY


@pytest.mark.slow
def test_a_training_of_two_processes(config, train_data, tmp_path):
    words = ["--num-gpus", "2", *SETTINGS]
    process = start(*arguments(train_data, tmp_path / "out", *words, config=config))
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode == 0, stderr
    assert len(runs(config)) == len(set(runs(config))) == 3  # this one looks at it first
