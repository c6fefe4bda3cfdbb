"""Fixtures of the tools' tests."""

import json
import shutil

import pytest

from loradet.datasets.synthetic import generate


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORADET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def train_data(tmp_path_factory):
    """Tiny synthetic scenes, 14 to train on: nine landscape and five portrait ones."""
    folder = tmp_path_factory.mktemp("data")
    root = generate(folder / "landscape", size=(48, 64), counts={"train": 9, "val": 4, "test": 3})
    portrait = generate(folder / "portrait", size=(64, 48), counts={"train": 5}, seed=1)
    file = root / "Annotations" / "train.json"
    content, more = (json.loads((r / "Annotations" / "train.json").read_text()) for r in (root, portrait))
    for image in more["images"]:
        name = f"portrait_{image['file_name']}"
        shutil.copy(portrait / "JPEGImages" / "train" / image["file_name"], root / "JPEGImages" / "train" / name)
        content["images"].append({**image, "id": image["id"] + 1000, "file_name": name})
    content["annotations"] += [
        {**box, "id": box["id"] + 1000, "image_id": box["image_id"] + 1000} for box in more["annotations"]
    ]
    file.write_text(json.dumps(content))
    return root
