"""Painted detections of the experiments of a study."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml
from helpers.report_runs import absent, entry, finished, study

from loradet.experiments.pages.report import write_report
from loradet.experiments.pages.strips import strip_section
from loradet.experiments.results.table import rows
from loradet.visualization.painting import class_colors

ENTRIES = [entry(f"E{n}") for n in (1, 2, 3, 4)]


@pytest.fixture
def data(tmp_path):
    """Six images, each with one ship, and an image folder."""
    (tmp_path / "images").mkdir()
    content = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "ship"}, {"id": 8, "name": "car"}]}
    for i in range(6):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.full((60, 120, 3), 80, np.uint8))
        content["images"].append({"id": i, "file_name": f"{i}.png", "width": 120, "height": 60})
        box = {"id": i + 1, "image_id": i, "category_id": 3, "bbox": [10, 10, 30, 30], "area": 900, "iscrowd": 0}
        content["annotations"].append(box)
    (tmp_path / "val.json").write_text(json.dumps(content))
    return tmp_path


def with_files(run, data, *, score: float = 0.9, images: str = "images"):
    """What an evaluated run leaves: detections of a car at the right, and where they are from."""
    metrics = {**run.metrics["val"], "annotations": str(data / "val.json"), "split": "val"}
    (run.folder / "val_metrics.json").write_text(json.dumps(metrics))
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    config["dataloader"]["val"] = {"dataset": {"image_root": str(data / images)}}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config))
    folder = run.folder / "predictions" / "val"
    folder.mkdir(parents=True)
    found = [{"image_id": i, "category_id": 8, "bbox": [80, 10, 30, 30], "score": score} for i in range(6)]
    (folder / "coco_instances_results.json").write_text(json.dumps(found))
    return run


def columns_of(picture, color) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(picture.jpg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert image.shape[:2] == (picture.height, picture.width)
    near = np.abs(image.astype(int) - np.array(color)).max(axis=2) < 60
    return np.flatnonzero(near.sum(axis=0) > 5)


def test_each_experiment_on_the_same_images(tmp_path, data):
    results = [
        with_files(finished(tmp_path, ENTRIES[0]), data),
        with_files(finished(tmp_path, ENTRIES[1]), data, score=0.1),
        finished(tmp_path, ENTRIES[2]),
        absent(tmp_path, ENTRIES[3]),
    ]
    (results[2].folder / "val_metrics.json").write_text(json.dumps(results[2].metrics["val"]))
    section = strip_section(rows(results), "val")
    assert [strip.title for strip in section.strips] == ["ground truth", "E1: Experiment E1", "E2: Experiment E2"]
    ship, car = class_colors(2)
    for truth, first, second in zip(*(strip.pictures for strip in section.strips), strict=True):
        assert truth.width == 2 * truth.height
        middle = truth.width / 2
        assert columns_of(truth, ship).max() < middle
        assert columns_of(first, car).min() > middle
        assert not len(columns_of(second, car))  # under the threshold
    assert len(section.strips[0].pictures) == 4
    assert section.notes == ["Not painted: E3 (the detections are gone)."]


def test_what_cannot_be_read_is_named(tmp_path, data):
    results = [with_files(finished(tmp_path, one), data) for one in ENTRIES[:2]]
    results.append(with_files(finished(tmp_path, ENTRIES[2]), data, images="elsewhere"))
    (results[0].folder / "predictions" / "val" / "coco_instances_results.json").write_text('[{"image_id": 1')
    section = strip_section(rows(results), "val")
    assert [strip.title for strip in section.strips] == ["ground truth", "E2: Experiment E2"]
    broken, moved = section.notes
    assert broken.startswith("Not painted: E1 (")
    assert "coco_instances_results.json" in broken
    assert moved == f"Not painted: E3 (the images are not in {data / 'elsewhere'})."


def test_the_report_holds_them_as_files_and_in_its_page(tmp_path, data):
    run = with_files(finished(tmp_path, ENTRIES[0]), data)
    written = write_report(study(*ENTRIES[:1]), [run], tmp_path / "report")
    assert sorted(path.name for path in written if path.suffix == ".jpg") == [
        *(f"E1_{i}.jpg" for i in range(4)),
        *(f"truth_{i}.jpg" for i in range(4)),
    ]
    assert (tmp_path / "report" / "report.html").read_text().count("data:image/jpeg;base64,") == 8
    assert "](pictures/E1_3.jpg)" in (tmp_path / "report" / "report.md").read_text()


def test_without_images_there_is_no_section(tmp_path):
    run = finished(tmp_path, ENTRIES[0])
    assert strip_section(rows([replace(run, state="missing", metrics={})]), "val").title == ""
    assert not strip_section(rows([run]), "val").strips
