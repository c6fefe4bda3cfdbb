"""Metrics files, against numbers that Detectron2 recorded and by hand."""

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers.detection_sets import random_set, write
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from loradet.evaluation.coco_accumulate import AccumulatedMatches
from loradet.evaluation.coco_metrics import coco_metrics, match_detections, read_metrics, write_metrics

NAMES = {
    "AP": "coco/bbox_mAP",
    "AP50": "coco/bbox_mAP_50",
    "AP75": "coco/bbox_mAP_75",
    "APs": "coco/bbox_mAP_s",
    "APm": "coco/bbox_mAP_m",
    "APl": "coco/bbox_mAP_l",
}


def percent(value: float | None) -> float:
    return math.nan if value is None else value / 100


def truth(boxes: dict[int, list[dict]], categories: list[str]) -> dict:
    annotations = [{**box, "image_id": image_id} for image_id, of_image in boxes.items() for box in of_image]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return {
        "images": [{"id": image_id, "width": 100, "height": 100, "file_name": "x"} for image_id in boxes],
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories, start=3)],
        "annotations": annotations,
    }


def evaluate(folder: Path, ground_truth: dict, detections: list[dict], **kwargs) -> dict[str, float]:
    (folder / "gt.json").write_text(json.dumps(ground_truth))
    (folder / "dt.json").write_text(json.dumps(detections))
    return coco_metrics(folder / "gt.json", folder / "dt.json", **kwargs)


@pytest.mark.golden
@pytest.mark.parametrize("case", ["default", "img_ids_subset"])
def test_agrees_with_detectron2(golden_d2, case):
    folder = golden_d2 / "coco_evaluator"
    recorded = json.loads((folder / "expected.json").read_text())
    image_ids = recorded["img_ids_subset"] if case == "img_ids_subset" else None
    metrics = coco_metrics(folder / "gt.json", folder / "coco_instances_results.json", image_ids)
    expected = recorded["results"][case]["bbox"]
    for name, value in expected.items():
        ours = metrics[NAMES.get(name) or name.replace("AP-", "coco/bbox_mAP/")]
        assert ours == pytest.approx(percent(value), abs=1e-8, nan_ok=True), name


def test_names_are_complete(tmp_path):
    metrics = evaluate(tmp_path, truth({1: [{"bbox": [1, 1, 50, 50], "category_id": 3}]}, ["ship"]), [])
    assert list(metrics) == [
        *(f"coco/bbox_mAP{suffix}" for suffix in ("", "_50", "_75", "_s", "_m", "_l")),
        *(f"coco/bbox_AR@{n}" for n in (1, 10, 100)),
        *(f"coco/bbox_AR_{area}@100" for area in "sml"),
        "coco/bbox_mAP/ship",
        "coco/bbox_AR@100/ship",
    ]


def test_by_hand(tmp_path):
    ground_truth = truth(
        {
            7: [{"bbox": [0, 0, 10, 10], "category_id": 3}, {"bbox": [50, 50, 10, 10], "category_id": 3}],
            8: [{"bbox": [0, 0, 50, 50], "category_id": 4}],
        },
        ["ship", "car", "tank"],
    )
    detections = [
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.9},  # found exactly
        {"image_id": 8, "category_id": 4, "bbox": [0, 0, 50, 30], "score": 0.8},  # IoU 0.6
    ]
    metrics = evaluate(tmp_path, ground_truth, detections)
    half = 51 / 101  # precision is 1 at the recalls 0, 0.01 ... 0.5 of COCO's 101
    assert metrics["coco/bbox_mAP/ship"] == pytest.approx(half)
    assert metrics["coco/bbox_mAP/car"] == pytest.approx(0.3)  # IoU thresholds 0.50, 0.55, 0.60
    assert math.isnan(metrics["coco/bbox_mAP/tank"])
    assert metrics["coco/bbox_AR@100/ship"] == pytest.approx(0.5)  # one of two at all ten thresholds
    assert metrics["coco/bbox_AR@100/car"] == pytest.approx(0.3)  # found at three of ten
    assert math.isnan(metrics["coco/bbox_AR@100/tank"])
    assert metrics["coco/bbox_AR@100"] == pytest.approx((0.5 + 0.3) / 2)
    assert metrics["coco/bbox_mAP"] == pytest.approx((half + 0.3) / 2)
    assert metrics["coco/bbox_mAP_50"] == pytest.approx((half + 1) / 2)
    assert metrics["coco/bbox_mAP_75"] == pytest.approx(half / 2)
    assert metrics["coco/bbox_AR@1"] == pytest.approx((0.5 + 0.3) / 2)
    assert metrics["coco/bbox_mAP_s"] == pytest.approx(half)
    assert metrics["coco/bbox_mAP_m"] == pytest.approx(0.3)
    assert math.isnan(metrics["coco/bbox_mAP_l"])
    assert evaluate(tmp_path, ground_truth, detections, image_ids=[8])["coco/bbox_mAP"] == pytest.approx(0.3)


@pytest.mark.parametrize("ids", [(0, 1), (5, 5), (None, None)], ids=["from 0", "twice the same", "none"])
def test_ids_of_annotations_do_not_matter(tmp_path, ids):
    """pycocotools says by id 0 that a box was not found."""
    ground_truth = truth({1: [{"bbox": [10 * n, 0, 8, 8], "category_id": 3} for n in (0, 5)]}, ["ship"])
    detections = [{**box, "score": 0.9} for box in ground_truth["annotations"]]
    for annotation, number in zip(ground_truth["annotations"], ids):
        del annotation["id"]
        if number is not None:
            annotation["id"] = number
    assert evaluate(tmp_path, ground_truth, detections)["coco/bbox_mAP"] == pytest.approx(1)
    evaluation = match_detections(tmp_path / "gt.json", tmp_path / "dt.json")
    precision, recall = AccumulatedMatches.from_evaluation(evaluation).accumulate()
    assert (precision[..., 0], recall[..., 0]) == (pytest.approx(1), pytest.approx(1))


def by_pycocotools(paths, limit: int) -> dict[str, float]:
    """Its own reading, matching and means of two files."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(paths[0])
        truth.dataset["info"] = {}
        evaluation = COCOeval(truth, truth.loadRes(json.loads(paths[1].read_text())), "bbox")
        evaluation.params.maxDets = sorted({1, 10, 100, limit})
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = (evaluation.eval[name] for name in ("precision", "recall"))
    at = evaluation.params.maxDets.index(limit)

    def mean(values):
        return float(np.mean(values[values > -1])) if (values > -1).any() else math.nan

    found = {f"mAP{name}": mean(precision[..., a, at]) for a, name in enumerate(("", "_s", "_m", "_l"))}
    found |= {f"mAP_{50 + 5 * t}": mean(precision[t, ..., 0, at]) for t in (0, 5)}
    found |= {f"AR@{n}": mean(recall[..., 0, evaluation.params.maxDets.index(n)]) for n in {1, 10, 100, limit}}
    for place, number in enumerate(evaluation.params.catIds):
        found[f"mAP/{truth.cats[number]['name']}"] = mean(precision[:, :, place, 0, at])
    return found


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("limit", [10, 100, 150])
def test_numbers_are_those_of_pycocotools_to_the_last_digit(tmp_path, seed, limit):
    ground_truth, detections = random_set(seed, images=12)
    rng = np.random.default_rng(seed)
    detections = detections * (1 + seed % 3 * 4)  # up to nine of each, so that limits matter
    for each in (ground_truth["images"], ground_truth["annotations"], detections, ground_truth["categories"]):
        rng.shuffle(each)
    if seed % 2:  # ids that are texts have another order than numbers
        name = {image["id"]: f"scene {image['id']}" for image in ground_truth["images"]}
        for image in ground_truth["images"]:
            image["id"] = name[image["id"]]
        for box in ground_truth["annotations"] + detections:
            box["image_id"] = name.get(box["image_id"], box["image_id"])
    paths = write(tmp_path, ground_truth, detections)
    metrics = coco_metrics(*paths, max_detections=limit)
    for name, value in by_pycocotools(paths, limit).items():
        assert str(metrics[f"coco/bbox_{name}"]) == str(value), name
    assert metrics["coco/bbox_mAP"] > 0

    for number, box in enumerate(ground_truth["annotations"]):
        box["id"] = number
    write(tmp_path, ground_truth, detections)
    assert str(coco_metrics(*paths, max_detections=limit)) == str(metrics), "ids that begin at 0"


def test_a_choice_of_images(tmp_path):
    ground_truth, detections = random_set(5, images=12)
    paths = write(tmp_path, ground_truth, detections)
    some = [image["id"] for image in ground_truth["images"]][::-2]
    expected = coco_metrics(*paths, some)
    assert str(coco_metrics(*paths, [*some, some[0], 12345])) == str(expected), "twice the same, and one that is not"
    part = {**ground_truth, "images": [image for image in ground_truth["images"] if image["id"] in some]}
    part["annotations"] = [box for box in ground_truth["annotations"] if box["image_id"] in some]
    (tmp_path / "part").mkdir()
    alone = write(tmp_path / "part", part, [one for one in detections if one["image_id"] in some])
    assert str(coco_metrics(*alone)) == str(expected)
    assert all(math.isnan(value) for value in coco_metrics(*paths, []).values())


def test_no_detections_are_zeros(tmp_path, caplog):
    metrics = evaluate(tmp_path, truth({1: [{"bbox": [1, 1, 50, 50], "category_id": 3}]}, ["a", "b"]), [])
    assert metrics["coco/bbox_mAP"] == metrics["coco/bbox_AR@100"] == metrics["coco/bbox_mAP/a"] == 0.0
    assert math.isnan(metrics["coco/bbox_mAP/b"])
    assert "no detections" in caplog.text


@pytest.mark.parametrize("crowd", [False, True])
def test_no_ground_truth_is_nan(tmp_path, caplog, crowd):
    boxes = [{"bbox": [1, 1, 5, 5], "category_id": 3, "iscrowd": 1}] if crowd else []
    detections = [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.9}]
    metrics = evaluate(tmp_path, truth({1: boxes}, ["a"]), detections)
    assert all(math.isnan(value) for value in metrics.values())
    assert "NaN" in caplog.text


@pytest.mark.parametrize(
    ("field", "value"), [("image_id", 99), ("category_id", 1)]
)  # a category id that is the contiguous one, say
def test_detections_of_other_data_are_refused(tmp_path, field, value):
    detection = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 0.9, field: value}
    with pytest.raises(ValueError, match=rf"dt\.json: detection 0 has {field} {value}.*gt\.json"):
        evaluate(tmp_path, truth({1: []}, ["a"]), [detection])


def test_files_that_are_something_else_are_named(tmp_path):
    (tmp_path / "gt.json").write_text("[]")
    (tmp_path / "dt.json").write_text("{")
    with pytest.raises(ValueError, match=r"gt\.json holds a list"):
        coco_metrics(tmp_path / "gt.json", tmp_path / "dt.json")
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        coco_metrics(tmp_path / "absent.json", tmp_path / "dt.json")
    (tmp_path / "gt.json").write_text(json.dumps(truth({1: []}, ["a"])))
    with pytest.raises(ValueError, match=r"dt\.json is cut short"):
        coco_metrics(tmp_path / "gt.json", tmp_path / "dt.json")


def test_metrics_files_are_whole_json(tmp_path):
    path = tmp_path / "val_metrics.json"
    metrics = {"coco/bbox_mAP": 0.25, "coco/bbox_mAP/tank": math.nan}
    write_metrics(path, metrics, checkpoint="model_best.pth", iteration=120, split="val", score_threshold=None)
    assert json.loads(path.read_text()) == {
        "checkpoint": "model_best.pth",
        "iteration": 120,
        "split": "val",
        "score_threshold": None,
        "coco/bbox_mAP": 0.25,
        "coco/bbox_mAP/tank": None,
    }
    again = read_metrics(path)
    assert math.isnan(again["coco/bbox_mAP/tank"])
    assert again["score_threshold"] is None
    with pytest.raises(ValueError, match="coco/bbox_mAP"):
        write_metrics(path, metrics, **{"coco/bbox_mAP": 1})
    assert [file.name for file in tmp_path.iterdir()] == ["val_metrics.json"]
