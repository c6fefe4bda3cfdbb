"""Matching of a whole data set at once, against the matching of one class after the other."""

import time

import numpy as np
import pytest
from helpers.detection_sets import as_files, as_records, large_set, one_image, random_set
from hypothesis import given, settings
from hypothesis import strategies as st

from loradet.evaluation import correctness
from loradet.evaluation.analysis.matching import match_class
from loradet.evaluation.calibration.report import CalibrationSettings, calibration_report, fit_on_records
from loradet.evaluation.correctness import match_all
from loradet.evaluation.detections.records import read_records

IOUS = (0.3, 0.5, 0.75, 1.0)


def class_by_class(records, iou_threshold):
    """Box (counted through the images) and whether ignored, of each detection in the order of `match_all`."""
    first_box = np.cumsum([0, *(len(image.truth_classes) for image in records.images)])
    first_detection = np.cumsum([0, *(len(image.scores) for image in records.images)])
    truth, ignored = np.full(first_detection[-1], -2), np.zeros(first_detection[-1], bool)
    for index in range(len(records.class_names)):
        found = match_class(records, index, iou_threshold, max_detections=10**6)
        places = first_detection[found.image] + found.detection
        truth[places] = np.where(found.truth >= 0, found.truth + first_box[found.image], -1)
        ignored[places] = found.ignored
    return truth, ignored


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(1, 4), limit=st.sampled_from([1, 5, 4_000_000]))
def test_agrees_with_the_matching_of_each_class(tmp_path_factory, seed, classes, limit):
    records = as_records(tmp_path_factory.mktemp("set"), *random_set(seed, images=6, classes=classes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correctness, "_MAX_PAIRS", limit)  # blocks of pairs must not change anything
        found = match_all(records, IOUS)
    for row, threshold in enumerate(IOUS):
        truth, ignored = class_by_class(records, threshold)
        np.testing.assert_array_equal(found.truth[row], truth)
        np.testing.assert_array_equal(found.ignored[row], ignored)


def test_by_hand(tmp_path):
    truth = [(0, [0, 0, 10, 10]), (1, [50, 50, 10, 10]), (0, [60, 0, 30, 30], "crowd")]
    found = [
        (0, [0, 0, 10, 8], 0.6),  # overlaps well, but comes second
        (0, [0, 0, 10, 6], 0.9),  # takes the box: score decides, not overlap
        (0, [50, 50, 10, 10], 0.8),  # the wrong class
        (1, [50, 50, 10, 10], 0.4),  # right
        (0, [65, 5, 10, 10], 0.7),  # in a crowd of its class
        (1, [65, 5, 10, 10], 0.2),  # in a crowd of another class
    ]
    judged = match_all(as_records(tmp_path, *one_image(truth, found))).judged(0.5)
    assert judged.scores.tolist() == [0.9, 0.8, 0.6, 0.4, 0.2]
    assert judged.correct.tolist() == [True, False, False, True, False]
    assert judged.classes.tolist() == [0, 0, 0, 1, 1]
    assert judged.areas.tolist() == [60, 100, 80, 100, 100]


def test_a_score_threshold_leaves_higher_ones_as_they_are(tmp_path):
    found = match_all(as_records(tmp_path, *random_set(3, images=8)))
    every, high = found.judged(0.5), found.judged(0.5, 0.4)
    kept = every.scores >= 0.4
    assert 0 < len(high) < len(every)
    np.testing.assert_array_equal(high.correct, every.correct[kept])
    np.testing.assert_array_equal(high.scores, every.scores[kept])


def test_nothing_found_and_nothing_to_find(tmp_path):
    nothing = match_all(as_records(tmp_path, *one_image([(0, [0, 0, 5, 5])], [])))
    assert len(nothing.judged(0.5)) == 0
    vain = match_all(as_records(tmp_path, *one_image([], [(0, [0, 0, 5, 5], 0.5), (0, [3, 3, 0, 0], 0.4)])))
    assert vain.judged(0.5).correct.tolist() == [False, False]


@pytest.mark.slow
def test_a_million_detections_take_seconds(tmp_path):
    paths, chosen = as_files(tmp_path, large_set()), CalibrationSettings()
    opened = time.process_time()  # what other processes take does not count
    records = read_records(*paths)
    start = time.process_time()
    match_all(records)
    matched = time.process_time()
    report = calibration_report(records, chosen, temperature=fit_on_records(records, chosen))
    done = time.process_time()
    print(f"CPU s: reading {start - opened:.1f}, matching {matched - start:.1f}, fit and report {done - matched:.1f}")
    assert report.before.whole.count > 900_000
    assert done - matched < 20
