"""Score thresholds by class: what an exhaustive search by pycocotools finds, and which ones tools take."""

import contextlib
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.detection_sets import as_records, one_image, random_set
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from loradet.errors import UserError
from loradet.evaluation.operating_point import OperatingPoint, choose_operating_point, operating_point_table
from loradet.evaluation.score_thresholds import (
    choose_thresholds,
    find_operating_point,
    weights_digest,
    write_operating_point,
)


def count(truth: dict, detections: list[dict], categories: list[int], iou: float) -> tuple[int, int, int]:
    """Right and wrong detections, and boxes to find, as pycocotools matches these detections anew."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco, found = COCO(), COCO()
        coco.dataset = truth
        rows = [
            {**one, "id": i, "area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0}
            for i, one in enumerate(detections, start=1)
        ]
        found.dataset = {**truth, "annotations": rows}
        coco.createIndex(), found.createIndex()
        evaluation = COCOeval(coco, found, "bbox")
        evaluation.params.iouThrs = np.array([iou])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.catIds = categories
        evaluation.evaluate()
    images = [image for image in evaluation.evalImgs if image is not None]
    counted = [image["dtMatches"][0][~image["dtIgnore"][0].astype(bool)] > 0 for image in images]
    judged = np.concatenate([np.zeros(0, bool), *counted])
    boxes = sum(int((~np.array(image["gtIgnore"], bool)).sum()) for image in images)
    return int(judged.sum()), int((~judged).sum()), boxes


def search(truth: dict, detections: list[dict], categories: list[int], iou: float) -> list[tuple]:
    """(score, precision, recall, F1) of every threshold that is a score, the highest first."""
    own = [one for one in detections if one["category_id"] in categories]
    found = []
    for score in sorted({one["score"] for one in own}, reverse=True):
        right, wrong, boxes = count(truth, [one for one in own if one["score"] >= score], categories, iou)
        precision = right / (right + wrong) if right + wrong else 0.0
        found.append((score, precision, right / max(boxes, 1), 2 * right / max(right + wrong + boxes, 1)))
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("iou", [0.5, 0.75])
def test_no_threshold_has_a_better_f1(tmp_path, seed, iou):
    truth, detections = random_set(seed, images=5)
    point = choose_operating_point(as_records(tmp_path, truth, detections), split="val", match_iou=iou)
    every = [category["id"] for category in truth["categories"]]
    for one, categories in [*zip(point.classes, [[i] for i in every]), (point.overall, every)]:
        table = search(truth, detections, categories, iou)
        best = max((row[3] for row in table), default=0.0)
        if one.threshold is None:
            assert best == 0.0
            continue
        own = [d for d in detections if d["category_id"] in categories and d["score"] >= one.threshold]
        right, wrong, boxes = count(truth, own, categories, iou)
        assert one.boxes == boxes
        assert (one.precision, one.recall) == pytest.approx((right / (right + wrong), right / boxes))
        assert one.f1 == pytest.approx(2 * right / (right + wrong + boxes)) == pytest.approx(best)
        # Of equally good ones it is the highest, with the fewest detections.
        highest = next(row for row in table if row[3] == pytest.approx(best))
        assert (one.precision, one.recall) == pytest.approx(highest[1:3])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("wished", [0.4, 0.8, 1.0])
def test_a_wished_precision_is_had_with_the_most_recall(tmp_path, seed, wished):
    truth, detections = random_set(seed, images=5)
    records = as_records(tmp_path, truth, detections)
    point = choose_operating_point(records, split="val", wished_precision=wished)
    for one, category in zip(point.classes, truth["categories"]):
        table = search(truth, detections, [category["id"]], 0.5)
        if one.threshold is None:
            assert all(row[3] == 0.0 for row in table)
            continue
        able = [row for row in table if row[1] >= wished]
        assert one.reached == bool(able)
        if able:
            assert one.precision >= wished
            assert one.recall == pytest.approx(max(row[2] for row in able))
        else:
            assert one.precision == pytest.approx(max(row[1] for row in table))


BOX, FAR = [10, 10, 20, 20], [60, 60, 20, 20]


def test_a_class_that_tells_nothing_takes_the_threshold_of_all(tmp_path):
    truth, detections = one_image([(0, BOX)], [(0, BOX, 0.8), (0, FAR, 0.4), (1, FAR, 0.9)], classes=3)
    point = choose_operating_point(as_records(tmp_path, truth, detections), split="val")
    assert [one.threshold for one in point.classes] == [0.6, None, None]
    # All together: at 0.9 none of one is right, at 0.8 one of two; F1 is 2 / (2 + 1).
    assert (point.overall.threshold, point.overall.f1) == (0.6, pytest.approx(2 / 3))
    assert point.thresholds(["class2", "class0", "unheard of"]) == (0.6, 0.6, 0.6)
    nothing = choose_operating_point(as_records(tmp_path, truth, []), split="val")
    assert nothing.thresholds(["class0"]) == (0.3,)
    assert "class1" in operating_point_table(nothing)


def test_what_is_written_is_found_for_that_file_alone(tmp_path, caplog):
    (tmp_path / "records").mkdir()
    truth, detections = one_image([(0, BOX)], [(0, BOX, 0.8), (0, FAR, 0.4)])
    point = choose_operating_point(as_records(tmp_path / "records", truth, detections), split="val")
    torch.save({"model": {"w": torch.zeros(3)}}, tmp_path / "model_best.pth")
    torch.save({"model": {"w": torch.ones(3)}}, tmp_path / "model_final.pth")
    write_operating_point(tmp_path, point, checkpoint=tmp_path / "model_best.pth", iteration=3)
    assert find_operating_point(tmp_path / "model_best.pth") == point
    assert find_operating_point(tmp_path / "model_final.pth") is None
    # A later evaluation with another wish comes before the run's own; it may lie below another folder.
    other = OperatingPoint.parse({**point.to_dict(), "wished_precision": 0.9}, "")
    write_operating_point(tmp_path / "eval_model_best", other, checkpoint=tmp_path / "model_best.pth")
    assert find_operating_point(tmp_path / "model_best.pth").wished_precision == 0.9
    write_operating_point(tmp_path / "out" / "eval_model_final", point, checkpoint=tmp_path / "model_final.pth")
    assert find_operating_point(tmp_path / "model_final.pth", tmp_path / "out") == point
    # Weights that were replaced have none.
    torch.save({"model": {"w": torch.full((3,), 2.0)}}, tmp_path / "model_best.pth")
    assert find_operating_point(tmp_path / "model_best.pth") is None
    # A merged checkpoint holds its own.
    torch.save({"model": {}, "operating_point": point.to_dict()}, tmp_path / "merged.pth")
    assert find_operating_point(tmp_path / "merged.pth") == point
    (tmp_path / "operating_point.json").write_text(json.dumps({"weights": weights_digest(tmp_path / "model_best.pth")}))
    with pytest.raises(UserError, match=r"operating_point.json holds no operating point: split is not there"):
        find_operating_point(tmp_path / "model_best.pth")

    written = point.to_dict()
    for key, value, words in (("threshold", math.nan, "a finite number"), ("recall", 7, "a number from 0 to 1")):
        odd = {**written, "overall": {**written["overall"], key: value}}
        with pytest.raises(UserError, match=rf"^here holds no operating point: overall\.{key} is .*; expected {words}"):
            OperatingPoint.parse(odd, "here")

    names = ["class0", "class1"]
    assert choose_thresholds(0.7, point, names, "a.pth").describe(names) == "0.7 (given)"
    assert not caplog.records
    shared = "class0 0.6, class1 0.6 (best F1 on val; class1: of all classes together)"
    assert choose_thresholds(None, point, names, "a.pth").describe(names) == shared
    empty = replace(point, overall=replace(point.overall, threshold=None), classes=())
    default = "0.3 (default: nothing right was found on val)"
    assert choose_thresholds(None, empty, names, "a.pth").describe(names) == default
    assert "a.pth: nothing that it found on val was right" in caplog.text
    assert choose_thresholds(None, None, names, "a.pth").by_class == 0.3
    assert "a.pth has no operating point" in caplog.text
