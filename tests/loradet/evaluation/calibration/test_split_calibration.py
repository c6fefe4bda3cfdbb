"""Calibration of a config's splits: which evaluator is meant, and what its temperature was fitted on."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators
from helpers.detection_sets import random_set, write
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from loradet.evaluation import CalibrationEvaluator
from loradet.evaluation.calibration.held_out_temperature import image_halves
from loradet.evaluation.calibration.report import CalibrationSettings, calibration_report, fit_on_halves, fit_on_records
from loradet.evaluation.calibration.split_calibration import (
    SplitFiles,
    calibrate_split,
    calibration_metrics,
    calibration_node,
)
from loradet.evaluation.calibration.temperature import Temperature, fit_temperature
from loradet.evaluation.correctness import match_all
from loradet.evaluation.detections.records import DetectionRecords, read_records
from loradet.evaluation.split_loop import build_evaluator

SETTINGS = CalibrationSettings(bins=5)


@given(st.lists(st.integers() | st.text(max_size=5), unique_by=str, max_size=40), st.randoms())
def test_halves_are_as_large_and_depend_on_the_ids_alone(ids, random):
    halves = image_halves(ids)
    assert abs(int(np.sum(halves == 0)) - int(np.sum(halves == 1))) <= 1
    shuffled = random.sample(ids, len(ids))
    again = dict(zip(map(str, shuffled), image_halves(shuffled)))
    assert [again[str(number)] for number in ids] == halves.tolist()


def files(folder: Path, split: str, seed: int, images: int = 12) -> SplitFiles:
    (folder / split).mkdir()
    annotations, predictions = write(folder / split, *random_set(seed, images=images))
    return SplitFiles(split=split, annotations=annotations, predictions=predictions)


def test_each_half_gets_the_temperature_of_the_other(tmp_path):
    val = files(tmp_path, "val", 5)
    records = read_records(val.annotations, val.predictions)
    halves = image_halves([image.image_id for image in records.images])
    parts = [
        DetectionRecords(tuple(i for i, h in zip(records.images, halves) if h == n), records.class_names)
        for n in (0, 1)
    ]
    first, second = (fit_on_records(part, SETTINGS) for part in parts)
    found = fit_on_halves(records, SETTINGS)
    assert found.halves == (first, second)
    assert found.whole == fit_on_records(records, SETTINGS)
    assert first.value != second.value

    # By hand: detection by detection, each image's by the temperature of the half that it is not in.
    scores, correct = [], []
    for part, temperature in zip(parts, (second, first)):
        judged = match_all(part).judged(0.5)
        scores += [1 / (1 + (1 / s - 1) ** (1 / temperature.value)) for s in judged.scores]
        correct += judged.correct.tolist()
    nll = -np.mean([math.log(s if c else 1 - s) for s, c in zip(scores, correct)])
    report = calibration_report(records, SETTINGS, temperature=found)
    assert report.after.whole.nll == pytest.approx(nll, rel=1e-9)
    assert report.after.whole.count == report.before.whole.count == len(scores)
    assert "halves" in report.to_dict()["temperature"]


def test_the_truth_of_an_image_never_scales_its_own_scores(tmp_path):
    truth, detections = random_set(5, images=12)
    records = read_records(*write(tmp_path, truth, detections))
    ids = [image.image_id for image in records.images]
    own = {number for number, half in zip(ids, image_halves(ids)) if half == 1}
    less = {**truth, "annotations": [box for box in truth["annotations"] if box["image_id"] not in own]}
    changed = read_records(*write(tmp_path, less, detections))

    def scaled(of: DetectionRecords) -> np.ndarray:
        detections = match_all(of).judged(0.5)
        detections = fit_on_halves(of, SETTINGS).scale(detections)
        return np.sort(detections.scores[np.isin(detections.images, [ids.index(number) for number in own])])

    # Crowds in the truth leave detections out; without any, all of the half's detections are there.
    everything = scaled(changed)
    assert set(np.round(scaled(records), 12)) <= set(np.round(everything, 12))
    assert fit_on_halves(changed, SETTINGS).halves[1] != fit_on_halves(records, SETTINGS).halves[1]


def config(evaluator):
    splits = {split: {"dataset": {"name": f"calibrated_{split}"}} for split in ("val", "test")}
    return OmegaConf.create({"dataloader": {**splits, "evaluator": evaluator}}, flags={"allow_objects": True})


def both(**options):
    coco = L(COCOEvaluator)(dataset_name="???", use_fast_impl=False)
    return L(DatasetEvaluators)(evaluators=[coco, L(CalibrationEvaluator)(dataset_name="???", **options)])


@pytest.fixture
def registered(tmp_path):
    for split in ("val", "test"):
        DatasetCatalog.register(f"calibrated_{split}", list)
        MetadataCatalog.get(f"calibrated_{split}").set(json_file=str(files(tmp_path, split, 3).annotations))
    yield
    for split in ("val", "test"):
        DatasetCatalog.remove(f"calibrated_{split}")
        MetadataCatalog.remove(f"calibrated_{split}")


@pytest.mark.usefixtures("registered")
def test_every_evaluator_of_several_gets_the_splits_data_and_folder(tmp_path):
    cfg = config(L(DatasetEvaluators)(evaluators=[both(), both(bins=3)]))
    outer = build_evaluator(cfg, "test", tmp_path / "out")
    evaluators = [one for inner in outer._evaluators for one in inner._evaluators]
    assert [type(one) for one in evaluators] == [COCOEvaluator, CalibrationEvaluator] * 2
    assert {one._output_dir for one in evaluators} == {str(tmp_path / "out")}
    assert {one._metadata.name for one in evaluators} == {"calibrated_test"}
    assert OmegaConf.is_missing(cfg.dataloader.evaluator.evaluators[0].evaluators[0], "dataset_name")


def test_the_configs_own_settings_are_used(tmp_path):
    val, test = files(tmp_path, "val", 5), files(tmp_path, "test", 6)
    assert calibration_node(config(L(COCOEvaluator)(dataset_name="???"))) is None
    node = calibration_node(config(both(bins=5, match_iou=0.75, score_threshold=0.2)))
    settings = CalibrationSettings(bins=5, match_iou=0.75, score_threshold=0.2)
    val_records, test_records = (read_records(one.annotations, one.predictions) for one in (val, test))

    report, source = calibrate_split(node, test, fit=val)
    expected = calibration_report(
        test_records, settings, temperature=fit_on_records(val_records, settings), title="test"
    )
    assert (report.to_dict(), source) == (expected.to_dict(), "val")
    report, source = calibrate_split(node, val)
    assert (report.temperature.halves, source) == (fit_on_halves(val_records, settings).halves, "halves of val")
    report, source = calibrate_split(calibration_node(config(both(temperature=2.0))), val)
    assert (report.temperature, source) == (Temperature(2.0), "the config")


def test_metrics_have_plain_names(tmp_path):
    report, _ = calibrate_split(calibration_node(config(both())), files(tmp_path, "val", 5))
    found = calibration_metrics(report)
    assert found["calibration/ece"] == report.before.whole.ece
    assert found["calibration/nll_scaled"] == report.after.whole.nll
    assert found["calibration/temperature"] == report.temperature.whole.value
    names = ("ece", "nll", "brier", "d_ece", "classwise_ece", "classwise_nll", "classwise_brier")
    assert set(found) == {
        *(f"calibration/{name}{suffix}" for name in names for suffix in ("", "_scaled")),
        "calibration/temperature",
    }
    json.dumps(report.to_dict(), allow_nan=False)


def test_too_few_images_scale_nothing(tmp_path):
    val = files(tmp_path, "val", 5, images=1)
    report, _ = calibrate_split(calibration_node(config(both())), val)
    assert report.temperature.halves[1] == fit_temperature(np.zeros(0), np.zeros(0))
    assert report.temperature.halves[1].note
