"""A small COCO data set on disk, and a cache folder of the test's own."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LORADET_CACHE", str(tmp_path_factory.mktemp("cache")))


class CocoFolder:
    """An images folder and a COCO file that tests change before they write it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "images"
        self.json = root / "instances.json"
        self.images.mkdir(parents=True)
        self.content = {
            "images": [
                {"id": 10, "file_name": "a.jpg", "width": 64, "height": 48},
                {"id": 7, "file_name": "b.png", "width": 40, "height": 40},
                {"id": 31, "file_name": "empty.png", "width": 30, "height": 20},
            ],
            "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 90, "name": "cow"}],
            "annotations": [
                self.box(1, 10, 5, [4, 4, 20, 10]),
                self.box(2, 10, 2, [30, 10, 10.5, 20]),
                self.box(3, 7, 90, [0, 0, 40, 40]),
                self.box(4, 7, 2, [5, 5, 30, 30], iscrowd=1),
            ],
        }
        noise = np.random.default_rng(0)
        for image in self.content["images"]:
            pixels = noise.integers(0, 255, (image["height"], image["width"], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.images / image["file_name"])

    @staticmethod
    def box(number: int, image_id: int, category_id: int, bbox: list, iscrowd: int = 0) -> dict:
        area = bbox[2] * bbox[3] if len(bbox) == 4 else 0.0
        return {
            "id": number,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": bbox,
            "area": area,
            "iscrowd": iscrowd,
        }

    def write(self, name: str = "instances.json") -> Path:
        path = self.root / name
        path.write_text(json.dumps(self.content))
        return path


@pytest.fixture
def coco_folder(tmp_path) -> CocoFolder:
    folder = CocoFolder(tmp_path / "data")
    folder.write()
    return folder
