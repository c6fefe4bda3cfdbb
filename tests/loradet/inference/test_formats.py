"""Detections written as COCO, YOLO and CSV are read back as they were."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from loradet.datasets.annotations import read_annotations
from loradet.datasets.readers.yolo_labels import parse_label
from loradet.inference.formats import file_names, save_detections, warn_of_earlier


@pytest.fixture
def content():
    rng = np.random.default_rng(0)
    images = [
        {"id": 3, "file_name": "a/one, two.jpg", "width": 640, "height": 480},
        {"id": 4, "file_name": "a/empty.png", "width": 100, "height": 30},
        {"id": 9, "file_name": "b.png", "width": 37, "height": 4001},
    ]
    categories = [{"id": 7, "name": "red cell"}, {"id": 2, "name": 'a "big", one'}, {"id": 5, "name": "two\nlines"}]
    annotations = []
    for image in (images[0], images[2]):
        for _ in range(20):
            x, y = rng.uniform(0, 0.7, 2) * [image["width"], image["height"]]
            w, h = rng.uniform(0.01, 0.3, 2) * [image["width"], image["height"]]
            row = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": int(rng.choice([2, 5, 7]))}
            annotations.append({**row, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "score": rng.random()})
    return {"info": {}, "images": images, "categories": categories, "annotations": annotations}


def wanted(content, image_id):
    return [row for row in content["annotations"] if row["image_id"] == image_id]


def test_what_an_earlier_prediction_left_is_told(content, tmp_path, caplog):
    warn_of_earlier(tmp_path)
    assert caplog.text == ""
    save_detections(content, tmp_path, ["yolo", "csv"])
    warn_of_earlier(tmp_path)
    assert f"{tmp_path} holds labels, classes.txt, detections.csv of an earlier prediction" in caplog.text


def test_coco(content, tmp_path):
    assert save_detections(content, tmp_path) == tmp_path / "predictions.json"
    assert json.loads((tmp_path / "predictions.json").read_text()) == content
    read = read_annotations(tmp_path / "predictions.json")
    assert [one.name for one in read.categories] == [one["name"] for one in content["categories"]]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]


def test_yolo(content, tmp_path):
    assert save_detections(content, tmp_path / "out", ["yolo", "csv"]) == tmp_path / "out" / "labels"
    classes = (tmp_path / "out" / "classes.txt").read_text().splitlines()
    assert classes == ["red cell", 'a "big", one', "two lines"]
    files = sorted(path.relative_to(tmp_path / "out/labels").as_posix() for path in tmp_path.rglob("labels/**/*.txt"))
    assert files == ["a/empty.txt", "a/one, two.txt", "b.txt"]
    assert (tmp_path / "out/labels/a/empty.txt").read_text() == ""
    for image in (content["images"][0], content["images"][2]):
        lines = (tmp_path / "out/labels" / image["file_name"]).with_suffix(".txt").read_text().splitlines()
        rows = wanted(content, image["id"])
        assert len(lines) == len(rows) == 20
        for line, row in zip(lines, rows):
            *label, score = line.split()
            name, *corners = parse_label(label, 3)
            assert content["categories"][name]["id"] == row["category_id"]
            x, y, w, h = row["bbox"]
            sides = np.array([image["width"], image["height"]] * 2)
            np.testing.assert_allclose(np.array(corners) * sides, [x, y, x + w, y + h], atol=1e-3)
            assert float(score) == pytest.approx(row["score"], abs=1e-6)


def test_csv(content, tmp_path):
    file = save_detections(content, tmp_path, ["csv"])
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 40
    names = {category["id"]: category["name"] for category in content["categories"]}
    images = {image["id"]: image for image in content["images"]}
    for line, row in zip(rows, content["annotations"]):
        x, y, w, h = row["bbox"]
        assert line["class"] == names[row["category_id"]] and int(line["category_id"]) == row["category_id"]
        assert line["image"] == images[row["image_id"]]["file_name"]
        assert [float(line[key]) for key in ("x0", "y0", "x1", "y1", "score")] == [x, y, x + w, y + h, row["score"]]


def test_images_of_one_name_have_a_file_each():
    names = [Path("a.jpg"), Path("a.png"), Path("b/a.png"), Path("x" * 260 + ".png")]
    found = file_names(names, ".txt")
    assert found[:3] == [Path("a.jpg.txt"), Path("a.png.txt"), Path("b/a.txt")]
    assert len(found[3].name) <= 255 and found[3].suffix == ".txt"
