"""Accumulation of weighted images, against COCOeval's own, and the intervals that it gives."""

import copy
import math
import time

import numpy as np
import pytest
from helpers.detection_sets import as_files, large_set, random_set, write
from hypothesis import given, settings
from hypothesis import strategies as st

from loradet.evaluation.bootstrap import bootstrap_difference, bootstrap_metrics, summarize_coco
from loradet.evaluation.box_evaluation import BoxEvaluation
from loradet.evaluation.coco_accumulate import AccumulatedMatches
from loradet.evaluation.coco_metrics import PREFIX, coco_metrics, match_detections

NAMES = {2: "class0", 5: "class1", 8: "class2"}


def distinct(detections):
    """COCO's order of equal scores depends on the order of the images."""
    return [{**one, "score": one["score"] - 1e-4 * number / len(detections)} for number, one in enumerate(detections)]


def evaluation_of(folder, truth, detections) -> BoxEvaluation:
    return match_detections(*write(folder, truth, detections))


def matches_of(folder, seed, images=12) -> AccumulatedMatches:
    truth, detections = random_set(seed, images=images)
    return AccumulatedMatches.from_evaluation(evaluation_of(folder, truth, distinct(detections)))


def finder(folder, share: float, images: int = 60) -> AccumulatedMatches:
    """A detector that finds a share of all boxes; what one of a smaller share finds, one of a larger finds too."""
    truth, _ = random_set(2, images=images, crowds=False)
    draws = np.random.default_rng(0).random(len(truth["annotations"])).tolist()
    found = [{**box, "score": 1 - draw} for box, draw in zip(truth["annotations"], draws) if draw < share]
    return AccumulatedMatches.from_evaluation(evaluation_of(folder, truth, found))


def accumulated(evaluation: BoxEvaluation) -> dict:
    evaluation.accumulate()
    return evaluation.eval


def repeated(truth: dict, detections: list[dict], weights) -> tuple[dict, list[dict]]:
    """A data set in which images come as often as their weights say."""
    images, boxes, found = [], [], []
    for position, (image, weight) in enumerate(zip(truth["images"], weights)):
        for copy_number in range(weight):
            number = 1000 * position + copy_number
            images.append({**image, "id": number})
            own = [box for box in truth["annotations"] if box["image_id"] == image["id"]]
            boxes += [{**box, "image_id": number, "id": len(boxes) + n} for n, box in enumerate(own, start=1)]
            found += [{**one, "image_id": number} for one in detections if one["image_id"] == image["id"]]
    return {**truth, "images": images, "annotations": boxes}, found


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_image_once_is_what_coco_accumulates(tmp_path_factory, seed):
    evaluation = evaluation_of(tmp_path_factory.mktemp("set"), *random_set(seed, images=6))
    expected = accumulated(copy.copy(evaluation))
    for index, limit in enumerate(evaluation.params.maxDets):
        precision, recall = AccumulatedMatches.from_evaluation(evaluation, limit).accumulate()
        np.testing.assert_allclose(precision, expected["precision"][..., index], rtol=0, atol=1e-12)
        np.testing.assert_allclose(recall, expected["recall"][..., index], rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), weights=st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_weights_are_repeated_images(tmp_path_factory, seed, weights):
    folder = tmp_path_factory.mktemp("set")
    truth, detections = random_set(seed, images=6)
    detections = distinct(detections)
    matches = AccumulatedMatches.from_evaluation(evaluation_of(folder, truth, detections))
    precision, recall = matches.accumulate(np.array(weights))
    expected = accumulated(evaluation_of(folder, *repeated(truth, detections, weights)))
    np.testing.assert_allclose(precision, expected["precision"][..., -1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(recall, expected["recall"][..., -1], rtol=0, atol=1e-12)


def test_metrics_are_those_of_the_metrics_file(tmp_path):
    truth, detections = random_set(5, images=12)
    files = write(tmp_path, truth, detections)
    expected = coco_metrics(*files)
    matches = AccumulatedMatches.from_evaluation(match_detections(*files))
    metrics = summarize_coco(*matches.accumulate(), matches, NAMES)
    assert {"mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l", "AR@100", "mAP/class2"} <= set(metrics)
    for name, value in metrics.items():
        assert value == pytest.approx(expected[PREFIX + name], abs=1e-12, nan_ok=True), name


def test_intervals_are_percentiles_of_coco_on_drawn_images(tmp_path):
    truth, detections = random_set(8, images=10)
    detections = distinct(detections)
    matches = AccumulatedMatches.from_evaluation(evaluation_of(tmp_path, truth, detections))
    found = bootstrap_metrics(matches, NAMES, resamples=15, seed=3, level=0.8)
    generator, values = np.random.default_rng(3), []
    for _ in range(15):
        weights = np.bincount(generator.integers(10, size=10), minlength=10)
        values.append(coco_metrics(*write(tmp_path, *repeated(truth, detections, weights)))["coco/bbox_mAP"])
    low, high = np.quantile(values, [0.1, 0.9])
    assert (found["mAP"].low, found["mAP"].high) == pytest.approx((low, high), abs=1e-12)
    assert found["mAP"].mean == pytest.approx(np.mean(values), abs=1e-12)
    assert found["mAP"].resamples == 15
    assert found["mAP"].low < found["mAP"].value < found["mAP"].high
    assert found["mAP"].share_not_above_zero == 0


def test_a_seed_fixes_the_numbers_and_more_images_narrow_them(tmp_path):
    few, many = matches_of(tmp_path, 1, images=20), matches_of(tmp_path, 1, images=80)
    one, same, other = (bootstrap_metrics(few, NAMES, resamples=40, seed=s)["mAP"] for s in (0, 0, 1))
    assert one == same
    assert (one.low, one.high) != (other.low, other.high)
    narrow = bootstrap_metrics(many, NAMES, resamples=40)["mAP"]
    assert narrow.high - narrow.low < one.high - one.low


def test_paired_difference(tmp_path):
    better, worse = finder(tmp_path, 0.7), finder(tmp_path, 0.6)
    of_itself = bootstrap_difference(better, better, NAMES, resamples=5)["mAP"]
    assert (of_itself.value, of_itself.low, of_itself.high, of_itself.share_not_above_zero) == (0, 0, 0, 1)
    paired = bootstrap_difference(better, worse, NAMES, resamples=60)["mAP"]
    apart = [bootstrap_metrics(one, NAMES, resamples=60)["mAP"] for one in (better, worse)]
    assert paired.value == pytest.approx(apart[0].value - apart[1].value)
    assert paired.low > 0 and paired.share_not_above_zero == 0
    assert paired.high - paired.low < math.hypot(*(one.high - one.low for one in apart))
    with pytest.raises(ValueError, match="same images"):
        bootstrap_difference(better, finder(tmp_path, 0.6, images=59), NAMES, resamples=5)


def test_what_cannot_be_measured(tmp_path):
    truth, detections = random_set(1, images=3)
    empty = AccumulatedMatches.from_evaluation(evaluation_of(tmp_path, {**truth, "annotations": []}, detections))
    found = bootstrap_metrics(empty, NAMES, resamples=3)["mAP"]
    assert math.isnan(found.value) and found.resamples == 0
    assert found.to_dict()["low"] is None
    with pytest.raises(ValueError, match="resample"):
        bootstrap_metrics(empty, NAMES, resamples=0)
    nothing = AccumulatedMatches.from_evaluation(evaluation_of(tmp_path, truth, []))
    assert bootstrap_metrics(nothing, NAMES, resamples=3)["mAP"].high == 0


@pytest.mark.slow
def test_a_resample_takes_less_than_the_matching(tmp_path):
    paths = as_files(tmp_path, large_set(1000))
    began = time.process_time()  # what other processes take does not count
    evaluation = match_detections(*paths)
    matches = AccumulatedMatches.from_evaluation(evaluation)
    matched = time.process_time()
    for seed in range(10):
        matches.accumulate(np.random.default_rng(seed).multinomial(1000, np.full(1000, 1 / 1000)))
    resampled = time.process_time()
    accumulated(evaluation)
    done = time.process_time()
    of_one = (resampled - matched) / 10
    print(f"CPU s: matching {matched - began:.1f}, a resample {of_one:.3f}, all metrics {done - resampled:.1f}")
    assert of_one < (matched - began) / 2
