"""Curves, against pycocotools and by hand."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
from helpers.detection_sets import as_records, one_image, random_set, write
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from loradet.evaluation.analysis.precision_recall import MEAN, precision_at_recalls, precision_recall_curves
from loradet.evaluation.coco_metrics import coco_metrics
from loradet.evaluation.detections.records import read_records


def coco_precision(truth_file, detections: list[dict]) -> np.ndarray:
    """pycocotools' precision (IoU 0.5 and 0.75, recall, class), -1 without ground truth."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(truth_file)
        truth.dataset["info"] = {}
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.params.iouThrs = np.array([0.5, 0.75])
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, -1]


@pytest.mark.parametrize("seed", range(30))
def test_curves_are_those_of_pycocotools(tmp_path, seed):
    truth, detections = random_set(seed)
    paths = write(tmp_path, truth, detections)
    curves = precision_recall_curves(read_records(*paths))
    expected = coco_precision(paths[0], detections)
    assert [curve.name for curve in curves] == 2 * [MEAN, "class0", "class1", "class2"]
    for curve in curves:
        of_threshold = expected[[0.5, 0.75].index(curve.iou_threshold)]
        if curve.name == MEAN:
            known = of_threshold[:, of_threshold[0] > -1]
            column = known.mean(axis=1) if known.size else np.full(101, np.nan)
        else:
            column = of_threshold[:, int(curve.name[-1])]
            column = np.where(column < 0, np.nan, column)
        np.testing.assert_allclose(curve.precision, column, atol=1e-9)
    metrics = coco_metrics(*paths)
    assert curves[0].average_precision == pytest.approx(metrics["coco/bbox_mAP_50"], nan_ok=True)
    assert curves[4].average_precision == pytest.approx(metrics["coco/bbox_mAP_75"], nan_ok=True)


def test_by_hand():
    precision = precision_at_recalls(np.array([True, False, True]), 4)
    assert precision[:26].tolist() == [1.0] * 26
    assert precision[26:51] == pytest.approx([2 / 3] * 25)
    assert precision[51:].tolist() == [0.0] * 50
    assert precision_at_recalls(np.array([], bool), 3).tolist() == [0.0] * 101
    assert np.isnan(precision_at_recalls(np.array([True]), 0)).all()


def test_json_has_no_nan(tmp_path):
    curves = precision_recall_curves(as_records(tmp_path, *one_image([(0, [0, 0, 9, 9])], [])))
    text = json.dumps([curve.to_dict() for curve in curves], allow_nan=False)
    assert [entry["average_precision"] for entry in json.loads(text)] == 2 * [0.0, 0.0, None]
    assert math.isnan(curves[2].average_precision)


def test_a_part_of_the_images(tmp_path):
    truth, detections = random_set(5)
    paths = write(tmp_path, truth, detections)
    records = read_records(*paths, image_ids=[20, 10])
    assert [image.image_id for image in records.images] == [10, 20]
    assert precision_recall_curves(records)[0].average_precision == pytest.approx(
        coco_metrics(*paths, image_ids=[10, 20])["coco/bbox_mAP_50"]
    )
    with pytest.raises(ValueError, match=r"truth\.json has no images with the ids \[7\]"):
        read_records(*paths, image_ids=[10, 7])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "detection 0 has image_id 99"),
        ({"category_id": 77}, "detection 0 has category_id 77"),
        ({"bbox": [1, 2, 3]}, r"detection 0 has bbox \[1, 2, 3\]"),
        ({"score": None}, "detection 0 lacks score"),
    ],
)
def test_broken_detections_are_named(tmp_path, change, message):
    truth, _ = one_image([(0, [0, 0, 9, 9])], [])
    detection = {"image_id": 1, "category_id": 0, "bbox": [0, 0, 9, 9], "score": 0.5}
    with pytest.raises(ValueError, match=rf"detections\.json: {message}"):
        as_records(tmp_path, truth, [{**detection, **change}])


def test_files_that_are_cut_or_absent_are_named(tmp_path):
    paths = write(tmp_path, *random_set(0))
    paths[1].write_text(paths[1].read_text()[:-20])
    with pytest.raises(ValueError, match=r"detections\.json is cut short"):
        read_records(*paths)
    paths[1].write_text("{}")
    with pytest.raises(ValueError, match=r"holds an object.*expected a list"):
        read_records(*paths)
    paths[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"detections\.json"):
        read_records(*paths)
