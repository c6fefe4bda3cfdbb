"""Detections and the annotation file that they are numbered as."""

import json

import pytest

from loradet.evaluation.analysis.error_breakdown import break_down_errors
from loradet.evaluation.bootstrap import bootstrap_metrics
from loradet.evaluation.coco_accumulate import AccumulatedMatches
from loradet.evaluation.coco_metrics import coco_metrics, match_detections
from loradet.evaluation.detections.numbering import (
    check_category_map,
    recorded_annotations,
    recorded_max_detections,
    write_category_map,
)
from loradet.evaluation.detections.records import read_records


def annotations(path, names=("ship", "car"), files=("a.png", "b.png"), folder=""):
    content = {
        "images": [{"id": n, "file_name": folder + file, "width": 8, "height": 8} for n, file in enumerate(files)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, start=1)],
        "annotations": [],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def detections(tmp_path):
    path = tmp_path / "run" / "coco_instances_results.json"
    path.parent.mkdir()
    path.write_text("[]")
    write_category_map(path, annotations(tmp_path / "own.json"))
    return path


def test_the_file_of_a_run_is_found_and_fits(detections, tmp_path):
    assert recorded_annotations(detections) == tmp_path / "own.json"
    check_category_map(detections, tmp_path / "own.json")
    check_category_map(detections, annotations(tmp_path / "same.json", folder="images/"))
    check_category_map(
        detections, annotations(tmp_path / "more.json", ("ship", "car", "bus"), ("a.png", "b.png", "c.png"))
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dict(names=("car", "ship")), "category 1 is 'ship' here and 'car' there"),
        (dict(names=("ship",)), "category 2 is 'car' here and nothing there"),
        (dict(files=("b.png", "a.png")), r"image 0 is a\.png here and b\.png there"),
        (dict(files=("a.png",)), r"image 1 is b\.png here and missing there"),
    ],
)
def test_a_file_with_other_numbers_is_refused(detections, tmp_path, other, message):
    path = annotations(tmp_path / "other.json", **other)
    with pytest.raises(ValueError, match=rf"is numbered as .*own\.json, not as .*other\.json: {message}"):
        check_category_map(detections, path)


def test_categories_are_compared_where_the_file_is_gone(detections, tmp_path):
    (tmp_path / "own.json").unlink()
    check_category_map(detections, annotations(tmp_path / "other.json", files=("b.png",)))
    with pytest.raises(ValueError, match="category 1"):
        check_category_map(detections, annotations(tmp_path / "other.json", names=("car", "ship")))
    with pytest.raises(FileNotFoundError, match=r"own\.json, which is gone"):
        recorded_annotations(detections)


def test_an_annotation_file_of_any_name_may_lie_beside_detections(tmp_path):
    check_category_map(tmp_path / "found.json", annotations(tmp_path / "annotations.json"))
    with pytest.raises(FileNotFoundError, match="give --annotations FILE"):
        recorded_annotations(tmp_path / "found.json")


def test_detections_of_other_tools_have_no_note(tmp_path):
    check_category_map(tmp_path / "found.json", tmp_path / "any.json")
    with pytest.raises(FileNotFoundError, match="give --annotations FILE"):
        recorded_annotations(tmp_path / "found.json")


def test_a_broken_note_is_named(detections, tmp_path):
    detections.with_name("numbering.json").write_text("{")
    with pytest.raises(ValueError, match=r"numbering\.json is cut short"):
        check_category_map(detections, tmp_path / "own.json")


@pytest.mark.parametrize("note", ["[]", "{}", '{"annotations": 5, "categories": {}}'])
def test_a_note_of_other_content_is_named(detections, note):
    detections.with_name("numbering.json").write_text(note)
    with pytest.raises(ValueError, match=r"numbering\.json (holds a list|lacks the annotation file).* Delete it"):
        recorded_annotations(detections)


@pytest.fixture
def dense(tmp_path):
    """An image of 150 boxes, and a detection of each."""
    boxes = [[x, y, 3, 3] for x in range(0, 60, 4) for y in range(0, 40, 4)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "ship"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "area": 9, "iscrowd": 0}
            for n, box in enumerate(boxes, start=1)
        ],
    }
    path, found = tmp_path / "dense.json", tmp_path / "found.json"
    path.write_text(json.dumps(content))
    found.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]))
    return path, found


@pytest.mark.parametrize(("limit", "recall"), [(300, 1.0), (100, 2 / 3), (50, 1 / 3)])
def test_one_limit_of_detections_for_every_number(dense, limit, recall):
    path, found = dense
    assert recorded_max_detections(found) == 100  # without a note
    write_category_map(found, path, limit)
    assert recorded_max_detections(found) == limit
    metrics = coco_metrics(path, found)
    average = pytest.approx((int(100 * recall) + 1) / 101)
    assert metrics["coco/bbox_mAP"] == metrics["coco/bbox_mAP/ship"] == average
    assert metrics["coco/bbox_AR@100"] == pytest.approx(2 / 3)  # as its name says
    assert metrics["coco/bbox_AR@10"] == pytest.approx(1 / 15)
    assert ("coco/bbox_AR@300" in metrics) == (limit == 300)
    matches = AccumulatedMatches.from_evaluation(match_detections(path, found))
    intervals = bootstrap_metrics(matches, {1: "ship"}, resamples=3)
    assert intervals["mAP"].value == average
    assert intervals[f"AR@{limit}"].value == pytest.approx(recall)
    errors = break_down_errors(read_records(path, found))
    assert errors.average_precision == average
    assert errors.counts["missed"] == round(150 * (1 - recall))


@pytest.mark.parametrize("limit", [0, "many", None, 1.5])
def test_a_broken_limit_in_a_note_is_named(dense, limit):
    path, found = dense
    write_category_map(found, path)
    note = json.loads(found.with_name("numbering.json").read_text())
    found.with_name("numbering.json").write_text(json.dumps({**note, "max_dets_per_image": limit}))
    with pytest.raises(ValueError, match=r"numbering\.json: max_dets_per_image is"):
        coco_metrics(path, found)


def test_a_limit_under_ten_acts_like_ten(dense):
    """As in Detectron2 0.6 (main of 2026-06-06), whose limits pycocotools sorts."""
    path, found = dense
    assert coco_metrics(path, found, max_detections=3) == coco_metrics(path, found, max_detections=10)


def test_a_limit_that_cuts_detections_of_an_unnoted_file_is_said(tmp_path, caplog):
    boxes = [[4.0 * i, 4.0 * j, 3.0, 3.0] for i in range(12) for j in range(10)]
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "height": 100, "width": 100}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 9.0, "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
    }
    found = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 1 - i / 200} for i, box in enumerate(boxes)]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    cut = coco_metrics(tmp_path / "truth.json", tmp_path / "found.json")["coco/bbox_mAP"]
    assert "120 detections of a class in an image, of which the 100" in caplog.text and 0.8 < cut < 0.85
    caplog.clear()
    assert coco_metrics(tmp_path / "truth.json", tmp_path / "found.json", max_detections=120)[
        "coco/bbox_mAP"
    ] == pytest.approx(1)
    assert not caplog.text
