"""Calibration of detections, against loops over plain lists, and the evaluator as Detectron2's loop calls it."""

import json
import math
import re

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import launch
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from helpers.detection_sets import as_records, one_image, random_set, write
from hypothesis import given, settings
from hypothesis import strategies as st

from loradet.evaluation.calibration.evaluator import CalibrationEvaluator
from loradet.evaluation.calibration.measures import SCORE_EPSILON, SIZES, reliability_bins
from loradet.evaluation.calibration.report import CalibrationSettings, calibration_report, fit_on_records
from loradet.evaluation.calibration.tables import calibration_tables
from loradet.evaluation.calibration.temperature import Temperature
from loradet.evaluation.detections.records import read_records


def overlap(a, b, crowd=False):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inner = width * height if width > 0 and height > 0 else 0.0
    return inner / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - inner)


def judge(truth, detections, match_iou):
    """(score, correct, class index, area) of each detection that counts."""
    judged, classes = [], {category["id"]: n for n, category in enumerate(truth["categories"])}
    taken = set()
    for one in sorted(detections, key=lambda entry: -entry["score"]):
        own = [
            box
            for box in truth["annotations"]
            if (box["image_id"], box["category_id"]) == (one["image_id"], one["category_id"])
        ]
        able = [
            (overlap(one["bbox"], box["bbox"]), box["id"])
            for box in own
            if not box["iscrowd"] and box["id"] not in taken and overlap(one["bbox"], box["bbox"]) >= match_iou
        ]
        crowds = [box for box in own if box["iscrowd"] and overlap(one["bbox"], box["bbox"], True) >= match_iou]
        if able:
            taken.add(max(able)[1])
        elif crowds:
            continue
        judged.append((one["score"], bool(able), classes[one["category_id"]], one["bbox"][2] * one["bbox"][3]))
    return judged


def expected_measures(judged, bins):
    if not judged:
        return dict.fromkeys(("precision", "mean_score", "ece", "nll", "brier")) | {"count": 0}
    cells, nll, brier = {}, 0.0, 0.0
    for score, correct, *_ in judged:
        place = next(m for m in range(bins) if score <= (m + 1) / bins or m == bins - 1)
        cells.setdefault(place, []).append((score, correct))
        clipped = min(max(score, SCORE_EPSILON), 1 - SCORE_EPSILON)
        nll -= math.log(clipped) if correct else math.log(1 - clipped)
        brier += (score - correct) ** 2
    ece = sum(abs(sum(c for _, c in cell) - sum(s for s, _ in cell)) for cell in cells.values())
    n = len(judged)
    means = {"precision": sum(c for _, c, *_ in judged) / n, "mean_score": sum(s for s, *_ in judged) / n}
    return {"count": n, **means, "ece": ece / n, "nll": nll / n, "brier": brier / n}


def size_of(area):
    return "small" if area < 32**2 else "medium" if area < 96**2 else "large"


def assert_same(found, expected):
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, abs=1e-11)), name


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    match_iou=st.sampled_from([0.3, 0.5, 0.75]),
    bins=st.integers(1, 20),
    threshold=st.sampled_from([0.0, 0.25, 0.6, 1.0]),
    value=st.floats(0.2, 5),
)
def test_agrees_with_loops(tmp_path_factory, seed, match_iou, bins, threshold, value):
    truth, detections = random_set(seed, images=5)
    # Larger boxes too, so that all sizes occur, and scores at both ends.
    for entry in [*truth["annotations"], *detections]:
        entry["bbox"] = [(1 + 6 * (entry["image_id"] % 3 == 0)) * side for side in entry["bbox"]]
    for number, entry in enumerate(detections):
        # Distinct, so that there is one order only.
        entry["score"] = {0: 0.0, 1: 1.0}.get(number, entry["score"] - 1e-5 * number)
    records = as_records(tmp_path_factory.mktemp("set"), truth, detections)
    chosen = CalibrationSettings(match_iou=match_iou, bins=bins, score_threshold=threshold)
    more = {"table_scores": (0.0, 0.4), "table_ious": (0.6,)}
    report = calibration_report(records, chosen, temperature=Temperature(value), **more).to_dict()
    assert len(report["table"]) == 2 * len({0.0, 0.4, threshold})

    judged = [one for one in judge(truth, detections, match_iou) if one[0] >= threshold]
    scaled = [(scale(s, value), *rest) for s, *rest in judged]
    for found, here in ((report["before"], judged), (report["after"], scaled)):
        whole = expected_measures(here, bins)
        assert_same(found, whole)
        of_classes = [expected_measures([one for one in here if one[2] == k], bins) for k in range(3)]
        for one, expected in zip(found["classes"], of_classes):
            assert_same(one, expected)
        sizes = {name: expected_measures([one for one in here if size_of(one[3]) == name], bins) for name in SIZES}
        for name, expected in sizes.items():
            assert_same(found["sizes"][name], expected)
        if not here:
            assert found["d_ece"] is found["classwise_mean"]["ece"] is None
            continue
        known = [one for one in of_classes if one["count"]]
        for name in ("ece", "nll", "brier"):
            assert found["classwise_mean"][name] == pytest.approx(sum(one[name] for one in known) / len(known))
        by_cell = sum((one["ece"] or 0) * one["count"] for one in sizes.values()) / len(here)
        assert found["d_ece"] == pytest.approx(by_cell, abs=1e-11)
        assert found["d_ece"] >= found["ece"] - 1e-11
    for row in report["table"]:
        here = [one for one in judge(truth, detections, row["match_iou"]) if one[0] >= row["score_threshold"]]
        expected = expected_measures(here, bins)
        assert_same(row, {name: expected[name] for name in ("count", "ece", "nll")})
        after = expected_measures([(scale(s, value), *rest) for s, *rest in here], bins)
        assert_same(row, {"ece_after": after["ece"], "nll_after": after["nll"]})


def scale(score, temperature):
    if temperature == 1:
        return score
    clipped = min(max(score, SCORE_EPSILON), 1 - SCORE_EPSILON)
    return 1 / (1 + math.exp(-(math.log(clipped) - math.log1p(-clipped)) / temperature))


@pytest.mark.parametrize("temperature", [None, Temperature(2.0)])
def test_the_text_table_says_what_the_file_says(tmp_path, temperature):
    records = as_records(tmp_path, *random_set(1))
    report = calibration_report(records, CalibrationSettings(score_threshold=0.96), temperature=temperature)
    rows = report.to_dict()["table"]
    head, _, *lines = calibration_tables(report).split("\n\n")[-1].splitlines()
    assert re.split(r"\s{2,}", head.strip()) == [name.replace("_", " ") for name in rows[0]]
    for line, row in zip(lines, rows, strict=True):
        score, iou, count, *measures = row.values()
        shown = ["–" if value is None else f"{value:.4f}" for value in measures]
        assert line.split() == [f"{score:g}", f"{iou:g}", str(count), *shown]
    assert rows[-1]["count"] == 0 and rows[-1]["ece"] is None


def test_by_hand(tmp_path):
    truth = [(0, [0, 0, 10, 10]), (0, [20, 0, 40, 40])]
    found = [(0, [0, 0, 10, 10], 0.9), (0, [20, 0, 40, 40], 0.8), (0, [70, 70, 20, 20], 0.85)]
    records = as_records(tmp_path, *one_image(truth, found))
    report = calibration_report(records, CalibrationSettings(bins=2)).to_dict()
    assert report["before"]["ece"] == pytest.approx(abs(2 / 3 - 0.85))
    assert report["before"]["nll"] == pytest.approx(-(math.log(0.9) + math.log(0.8) + math.log(0.15)) / 3)
    assert report["before"]["brier"] == pytest.approx((0.1**2 + 0.2**2 + 0.85**2) / 3)
    assert report["before"]["sizes"]["small"]["ece"] == pytest.approx(abs(1 / 2 - 0.875))
    assert report["before"]["d_ece"] == pytest.approx((2 * 0.375 + 0.2) / 3)
    assert report["before"]["reliability"] == {
        "edges": [0, 0.5, 1],
        "count": [0, 3],
        "mean_score": [None, pytest.approx(0.85)],
        "precision": [None, pytest.approx(2 / 3)],
    }
    assert (report["temperature"], report["after"]) == (None, None)


def test_bins_hold_their_upper_edge():
    edges = np.array([0.0, 1 / 15, 2 / 15, 0.2, 0.2 + 1e-12, 1.0])
    assert reliability_bins(edges, np.zeros(6), 15).counts.tolist() == [2, 1, 1, 1, *[0] * 10, 1]


@pytest.mark.parametrize(("correct", "ece"), [(True, 0.3), (False, 0.7)])
def test_all_right_and_all_wrong(tmp_path, correct, ece):
    truth = [(0, [0, 0, 10, 10])] if correct else []
    records = as_records(tmp_path, *one_image(truth, [(0, [0, 0, 10, 10], 0.7)]))
    assert fit_on_records(records, CalibrationSettings()).value == 1
    assert calibration_report(records, CalibrationSettings()).before.whole.ece == pytest.approx(ece)


def test_temperature_fitted_on_one_split_helps_on_another(tmp_path):
    chosen = CalibrationSettings()
    rng = np.random.default_rng(0)
    splits = []
    for _ in range(2):
        truth, detections = random_set(int(rng.integers(1000)), images=300, crowds=False)
        correct = {id(one): right for one, (_, right, *_) in zip(detections, judge_in_order(truth, detections))}
        for one in detections:
            # The log odds of two normal distributions when one in six is right; three times too sure.
            log_odds = 2 * rng.normal(1 if correct[id(one)] else -1) + math.log(1 / 5)
            logit = 3 * log_odds
            one["score"] = 1 / (1 + math.exp(-logit))
        splits.append(as_records(tmp_path, truth, detections))
    temperature = fit_on_records(splits[0], chosen)
    report = calibration_report(splits[1], chosen, temperature=temperature)
    assert 2 < temperature.value < 4
    assert report.after.whole.nll < report.before.whole.nll
    assert report.after.whole.ece < report.before.whole.ece


def judge_in_order(truth, detections):
    """Correctness of each detection as it comes."""
    ranked = [{**one, "score": -float(n)} for n, one in enumerate(detections)]
    return sorted(judge(truth, ranked, 0.5), key=lambda one: -one[0])


def test_scores_that_are_no_probabilities_are_refused(tmp_path):
    records = as_records(tmp_path, *one_image([], [(0, [0, 0, 1, 1], 1.5)]))
    with pytest.raises(ValueError, match=r"Image 1 has a score of 1\.5"):
        calibration_report(records, CalibrationSettings())


@pytest.mark.parametrize("wrong", [{"match_iou": 0}, {"match_iou": 1.1}, {"bins": 0}, {"score_threshold": -0.1}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CalibrationSettings(**wrong)


@pytest.mark.parametrize("synthetic", [True, False])
def test_files_say_what_is_synthetic_and_are_reproducible(tmp_path, synthetic):
    truth, detections = random_set(4, images=6)
    records = as_records(tmp_path, {**truth, "info": {"synthetic": synthetic}}, detections)
    report = calibration_report(records, CalibrationSettings(), temperature=Temperature(2.0), title="trial")
    written = report.write(tmp_path / "out")
    content = json.loads(written[0].read_text())
    assert content.get("data") == ("synthetic" if synthetic else None)
    assert content["title"] == f"trial, 6 {'synthetic ' if synthetic else ''}images"
    png = written[1].read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) > 10_000
    assert report.write(tmp_path / "again")[1].read_bytes() == png
    assert sum(content["before"]["reliability"]["count"]) == content["before"]["count"]


@pytest.fixture
def registered(tmp_path):
    """A registered data set, and the detections of a model as (inputs, outputs) of each image."""
    truth, detections = random_set(11, images=7)
    file, _ = write(tmp_path, {**truth, "info": {"synthetic": True}}, detections)
    register(str(file))
    yield batches(truth, detections)
    DatasetCatalog.remove("calibration_trial")
    MetadataCatalog.remove("calibration_trial")


def register(file):
    DatasetCatalog.register("calibration_trial", list)
    MetadataCatalog.get("calibration_trial").set(
        json_file=file,
        thing_classes=["class0", "class1", "class2"],
        thing_dataset_id_to_contiguous_id={2: 0, 5: 1, 8: 2},
    )


def batches(truth, detections):
    contiguous, found = {2: 0, 5: 1, 8: 2}, []
    for image in truth["images"]:
        own = [one for one in detections if one["image_id"] == image["id"]]
        boxes = torch.tensor([one["bbox"] for one in own], dtype=torch.float32).reshape(-1, 4) + 0.1
        instances = Instances((64, 64))
        instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        instances.scores = torch.tensor([one["score"] for one in own])
        instances.pred_classes = torch.tensor([contiguous[one["category_id"]] for one in own], dtype=torch.int64)
        found.append(([{"image_id": image["id"]}], [{"instances": instances}]))
    return found


def test_evaluator_in_the_loop_agrees_with_the_files_it_leaves(registered, tmp_path):
    outputs = {inputs[0]["image_id"]: output for inputs, output in registered}
    calibration = instantiate(
        L(CalibrationEvaluator)(
            dataset_name="calibration_trial", output_dir=str(tmp_path / "out"), bins=10, temperature=2.0
        )
    )
    coco = COCOEvaluator("calibration_trial", output_dir=str(tmp_path / "out"))
    results = inference_on_dataset(
        lambda inputs: outputs[inputs[0]["image_id"]],
        [inputs for inputs, _ in registered],
        DatasetEvaluators([coco, calibration]),
    )
    records = read_records(tmp_path / "truth.json", tmp_path / "out" / "coco_instances_results.json")
    expected = calibration_report(
        records, CalibrationSettings(bins=10), temperature=Temperature(2.0), title="calibration_trial"
    )
    assert json.loads((tmp_path / "out" / "calibration.json").read_text()) == expected.to_dict()
    assert (tmp_path / "out" / "reliability_diagram.png").is_file()
    found = results["calibration"]
    assert found["ECE"] == expected.before.whole.ece
    assert found["NLL_after"] == expected.after.whole.nll
    assert {"D_ECE", "Brier", "classwise_ECE", "classwise_NLL_after", "ECE-class1"} <= set(found)
    assert "AP" in results["bbox"]

    calibration.reset()
    assert calibration.evaluate() == {}  # nothing was processed


def test_evaluator_refuses_what_does_not_belong(registered):
    evaluator = CalibrationEvaluator("calibration_trial")
    inputs, outputs = next(pair for pair in registered if len(pair[1][0]["instances"]))
    evaluator.process([{"image_id": 999}], outputs)
    with pytest.raises(ValueError, match=r"truth\.json has no images with the ids \[999\]"):
        evaluator.evaluate()
    evaluator.reset()
    outputs[0]["instances"].pred_classes[0] = 7
    evaluator.process(inputs, outputs)
    with pytest.raises(ValueError, match="Class 7 was predicted"):
        evaluator.evaluate()
    with pytest.raises(ValueError, match="match_iou"):
        CalibrationEvaluator("calibration_trial", match_iou=2)


@pytest.mark.usefixtures("registered")
def test_records_without_a_file_are_converted(tmp_path):
    MetadataCatalog.remove("calibration_trial")
    DatasetCatalog.remove("calibration_trial")
    DatasetCatalog.register(
        "calibration_trial",
        lambda: [
            {
                "file_name": "a.png",
                "image_id": 1,
                "height": 64,
                "width": 64,
                "annotations": [{"bbox": [0, 0, 20, 20], "bbox_mode": 1, "category_id": 1, "iscrowd": 0}],
            }
        ],
    )
    MetadataCatalog.get("calibration_trial").set(thing_classes=["a", "b"])
    with pytest.raises(ValueError, match="output_dir"):
        CalibrationEvaluator("calibration_trial")
    evaluator = CalibrationEvaluator("calibration_trial", str(tmp_path / "new"))
    instances = Instances((64, 64), pred_boxes=Boxes(torch.tensor([[0.0, 0, 20, 20]])))
    instances.scores, instances.pred_classes = torch.tensor([0.75]), torch.tensor([1])
    evaluator.process([{"image_id": 1}], [{"instances": instances}])
    assert evaluator.evaluate()["calibration"]["ECE"] == pytest.approx(0.25)


def evaluate_share(folder):
    """One of two processes, each with every second image."""
    register(str(folder / "truth.json"))
    truth = json.loads((folder / "truth.json").read_text())
    detections = json.loads((folder / "detections.json").read_text())
    evaluator = CalibrationEvaluator("calibration_trial")
    evaluator.reset()
    for inputs, outputs in batches(truth, detections)[comm.get_rank() :: 2]:
        evaluator.process(inputs, outputs)
    (folder / f"rank{comm.get_rank()}.json").write_text(json.dumps(evaluator.evaluate()))


def test_two_processes_give_what_one_gives(registered, tmp_path):
    alone = CalibrationEvaluator("calibration_trial", distributed=False)
    for inputs, outputs in registered:
        alone.process(inputs, outputs)
    launch(evaluate_share, 2, dist_url="auto", args=(tmp_path,))
    assert json.loads((tmp_path / "rank0.json").read_text()) == alone.evaluate()
    assert json.loads((tmp_path / "rank1.json").read_text()) == {}
