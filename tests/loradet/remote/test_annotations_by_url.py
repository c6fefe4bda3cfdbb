"""Annotation files by URL."""

import json
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog
from helpers.broken_server import serve
from PIL import Image

from loradet.datasets import coco_dataset
from loradet.errors import UserError

CONTENT = {
    "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}],
    "categories": [{"id": 3, "name": "ship"}],
}


@pytest.fixture
def images(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("LORADET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "images/a.png")
    return tmp_path / "images"


def test_annotations_by_url_are_those_of_a_file(images: Path, tmp_path: Path):
    (tmp_path / "train.json").write_text(json.dumps(CONTENT))
    here = coco_dataset(tmp_path / "train.json", images)
    with serve({"/train.json": json.dumps(CONTENT).encode()}) as server:
        there = coco_dataset(f"{server.url}/train.json", images, name="annotations_by_url")
        assert list(there) == list(here)
        assert MetadataCatalog.get("annotations_by_url").source == f"{server.url}/train.json"


def test_images_by_url_are_refused(images: Path):
    with serve({"/train.json": json.dumps(CONTENT).encode()}) as server:
        with pytest.raises(UserError, match="images are read from a folder on this machine"):
            coco_dataset(f"{server.url}/train.json", "s3://bucket/images")
        with pytest.raises(UserError, match=r"/val.json: there is no such file"):
            coco_dataset(f"{server.url}/val.json", images)
