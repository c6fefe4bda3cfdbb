"""Kinds of errors by hand, and all of it against pycocotools run on detections that were really mended."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
from helpers.detection_sets import as_records, one_image, random_set, write
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_confusion import iou

from loradet.evaluation.analysis.error_breakdown import KINDS, break_down_errors
from loradet.evaluation.coco_metrics import coco_metrics

BOX = [20, 20, 20, 20]


@pytest.mark.parametrize(
    ("found", "kind", "missed"),
    [
        ((1, BOX), "classification", 0),
        ((0, [30, 20, 20, 20]), "localisation", 0),  # IoU 1/3
        ((1, [30, 20, 20, 20]), "both", 1),
        ((0, [70, 70, 20, 20]), "background", 1),
        ((0, [38, 38, 20, 20]), "background", 1),  # IoU 0.005
    ],
)
def test_one_error(tmp_path, found, kind, missed):
    errors = break_down_errors(as_records(tmp_path, *one_image([(0, BOX)], [(*found, 0.9)])))
    expected = {**dict.fromkeys(KINDS, 0), kind: 1, "missed": missed}
    assert errors.counts == expected
    assert errors.class_counts[f"class{found[0]}"][kind] == 1
    assert errors.average_precision == 0.0
    assert errors.gains[kind] == pytest.approx(1.0 if kind in ("classification", "localisation") else 0.0)
    # Where nothing would be left to find, there is no AP to gain.
    assert math.isnan(errors.gains["missed"]) if missed else errors.gains["missed"] == 0.0
    assert json.loads(json.dumps(errors.to_dict(), allow_nan=False))["counts"] == expected


def test_a_duplicate_costs_what_stands_behind_it(tmp_path):
    truth = [(0, BOX), (0, [60, 60, 20, 20])]
    found = [(0, BOX, 0.9), (0, [21, 20, 20, 20], 0.8), (0, [60, 60, 20, 20], 0.7)]
    errors = break_down_errors(as_records(tmp_path, *one_image(truth, found)))
    assert errors.counts == {**dict.fromkeys(KINDS, 0), "duplicate": 1}
    assert (errors.true_positives, errors.num_truth) == (2, 2)
    assert errors.average_precision == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert errors.gains["duplicate"] == pytest.approx(1 - errors.average_precision)


def test_crowds_are_neither_found_nor_missed(tmp_path):
    truth = [(0, BOX), (0, [50, 50, 50, 50], "crowd")]
    found = [(0, BOX, 0.9), (0, [60, 60, 10, 10], 0.8), (1, [60, 60, 10, 10], 0.8)]
    errors = break_down_errors(as_records(tmp_path, *one_image(truth, found)))
    assert errors.counts == {**dict.fromkeys(KINDS, 0), "background": 1}
    assert (errors.ignored, errors.num_truth, errors.average_precision) == (1, 1, 1.0)


def diagnose(truth: dict, detections: list[dict], folder) -> tuple[list, set]:
    """(detection, kind, meant annotation) of each wrong one, and the ids of found boxes, from pycocotools' matches."""
    numbered = [{**entry, "id": number} for number, entry in enumerate(detections, start=1)]
    path, _ = write(folder, truth, detections)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(path)
        coco.dataset["info"] = {}
        evaluation = COCOeval(coco, coco.loadRes([dict(entry) for entry in numbered]), "bbox")
        evaluation.params.iouThrs, evaluation.params.areaRng = np.array([0.5]), [[0, 1e10]]
        evaluation.evaluate()
    wrong, found = [], set()
    for image in filter(None, evaluation.evalImgs):
        for number, match, ignored in zip(image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0]):
            if ignored:
                continue
            if match:
                found.add((int(match), int(number)))
                continue
            entry = numbered[int(number) - 1]
            boxes = [
                (iou(entry["bbox"], box["bbox"]), box["category_id"] == entry["category_id"], box)
                for box in truth["annotations"]
                if box["image_id"] == entry["image_id"] and not box["iscrowd"]
            ]
            same = max(((value, -box["id"], box) for value, own, box in boxes if own), default=(0, 0, None))
            other = max(((value, -box["id"], box) for value, own, box in boxes if not own), default=(0, 0, None))
            if same[0] >= 0.5:
                wrong.append((entry, "duplicate", None))
            elif other[0] >= 0.5:
                wrong.append((entry, "classification", other[2]))
            elif same[0] >= 0.1:
                wrong.append((entry, "localisation", same[2]))
            else:
                wrong.append((entry, "both" if other[0] >= 0.1 else "background", None))
    return wrong, found


def ap50(folder, truth: dict, detections: list[dict]) -> float:
    return coco_metrics(*write(folder, truth, detections))["coco/bbox_mAP_50"]


@pytest.mark.parametrize("seed", range(25))
def test_agrees_with_pycocotools_on_mended_detections(tmp_path, seed):
    truth, detections = random_set(seed + 100)
    detections = [{**entry, "score": entry["score"] - 1e-6 * n} for n, entry in enumerate(detections)]
    errors = break_down_errors(as_records(tmp_path, truth, detections))
    wrong, found = diagnose(truth, detections, tmp_path)
    covered = {box for box, _ in found} | {box["id"] for _, _, box in wrong if box}
    missed = [box for box in truth["annotations"] if not box["iscrowd"] and box["id"] not in covered]
    for kind in KINDS[:-1]:
        assert errors.counts[kind] == sum(name == kind for _, name, _ in wrong), kind
    assert errors.counts["missed"] == len(missed)
    assert errors.true_positives == len(found)

    average = ap50(tmp_path, truth, detections)
    assert errors.average_precision == pytest.approx(average, nan_ok=True)
    numbered = dict(enumerate(detections, start=1))
    for kind in KINDS[:-1]:
        here = [(entry["id"], box) for entry, name, box in wrong if name == kind]
        mended = {number: entry for number, entry in numbered.items() if number not in dict(here)}
        for box in {box["id"]: box for _, box in here if box}.values():
            # Of all that find the box now, the best stays.
            own = [number for target, number in found if target == box["id"]]
            rivals = own + [number for number, meant in here if meant is box]
            best = max(rivals, key=lambda number: numbered[number]["score"])
            for number in own:
                del mended[number]
            place = {} if best in own else {"category_id": box["category_id"], "bbox": box["bbox"]}
            mended[best] = {**numbered[best], **place}
        gain = ap50(tmp_path, truth, list(mended.values())) - average
        assert errors.gains[kind] == pytest.approx(gain, nan_ok=True, abs=1e-9), kind
        assert math.isnan(errors.gains[kind]) or errors.gains[kind] >= -1e-12
    rest = {**truth, "annotations": [box for box in truth["annotations"] if box not in missed]}
    assert errors.gains["missed"] == pytest.approx(ap50(tmp_path, rest, detections) - average, nan_ok=True)


def test_thresholds_in_the_wrong_order(tmp_path):
    with pytest.raises(ValueError, match="background"):
        break_down_errors(as_records(tmp_path, *random_set(0)), foreground_iou=0.1, background_iou=0.5)
