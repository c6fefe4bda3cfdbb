"""A config over six plain images, whose detector says the same of each."""

import json

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, DatasetMapper, build_detection_test_loader
from helpers.corner_detector import CornerDetector
from omegaconf import OmegaConf
from PIL import Image

from loradet.datasets import coco_dataset
from loradet.visualization import grid, painting


def make_config(folder, *, synthetic: bool = False, images: int = 6):
    """COCO data in a folder (every second image has a box), and a config over it."""
    (folder / "images").mkdir(parents=True)
    content = {
        "info": {"synthetic": synthetic},
        "images": [],
        "annotations": [],
        "categories": [{"id": 5, "name": "ship"}, {"id": 9, "name": "car"}],
    }
    for i in range(images):
        Image.fromarray(np.full((96, 128, 3), 60, np.uint8)).save(folder / "images" / f"im{i}.png")
        content["images"].append({"id": 10 + i, "file_name": f"im{i}.png", "height": 96, "width": 128})
        if i % 2:
            box = {"id": i, "image_id": 10 + i, "category_id": 5, "bbox": [30, 30, 40, 40], "area": 1600, "iscrowd": 0}
            content["annotations"].append(box)
    (folder / "val.json").write_text(json.dumps(content))
    name = f"painted_{folder.parent.name}_{folder.name}"
    val = L(build_detection_test_loader)(
        dataset=L(coco_dataset)(
            json_file=str(folder / "val.json"), image_root=str(folder / "images"), classes=None, name=name
        ),
        mapper=L(DatasetMapper)(is_train=False, augmentations=[], image_format="RGB"),
    )
    return OmegaConf.create(
        {"model": L(CornerDetector)(num_classes=2), "train": {"device": "cpu"}, "dataloader": {"val": val}},
        flags={"allow_objects": True},
    )


@pytest.fixture
def config_of(tmp_path):
    """`make_config` in a folder of its own; its data sets are forgotten afterwards."""
    before = set(DatasetCatalog.list())
    yield lambda name, **kwargs: make_config(tmp_path / name, **kwargs)
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)


@pytest.fixture
def cfg(config_of):
    return config_of("data")


@pytest.fixture
def checkpoint_of(tmp_path):
    """A checkpoint file of the detector that finds this box."""

    def save(*corners: float, name: str = "model_best.pth"):
        torch.save({"model": {"corner": torch.tensor(corners, dtype=torch.float32)}}, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def texts(monkeypatch):
    """All headings and titles that pictures get, before they are fitted into their width."""
    found = []
    for module in (grid, painting):
        for name in ("text_line", "text_block"):
            original = getattr(module, name)

            def spy(text, *arguments, keep="", original=original, **options):
                found.append(text + keep)
                return original(text, *arguments, **({"keep": keep} if keep else {}), **options)

            monkeypatch.setattr(module, name, spy)
    return found
