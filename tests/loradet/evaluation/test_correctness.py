"""Matching of a whole data set at once, against a plain loop over images, classes and detections."""

import time

import numpy as np
import pytest
from helpers.detection_sets import as_files, as_records, large_set, one_image, random_set
from hypothesis import given, settings
from hypothesis import strategies as st

from loradet.evaluation.analysis.matching import match_classes
from loradet.evaluation.calibration.report import CalibrationSettings, calibration_report, fit_on_records
from loradet.evaluation.correctness import match_all
from loradet.evaluation.detections.records import DetectionRecords, ImageRecord, box_iou, read_records

IOUS = (0.3, 0.5, 0.75, 1.0)


def by_loops(image: ImageRecord, class_index: int, iou_threshold: float, limit: int | None = None) -> list[tuple]:
    """(detection, box found or -1, ignored) of the detections of a class in an image."""
    boxes = [box for box, kind in enumerate(image.truth_classes) if kind == class_index]
    free, found = {box for box in boxes if not image.truth_crowd[box]}, []
    for detection in [place for place, kind in enumerate(image.found_classes) if kind == class_index][:limit]:
        overlaps = box_iou(image.found_xywh[[detection]], image.truth_xywh, image.truth_crowd)[0]
        reached = [box for box in boxes if overlaps[box] >= min(iou_threshold, 1 - 1e-10)]
        best = max((box for box in reached if box in free), key=lambda box: (overlaps[box], box), default=-1)
        free.discard(best)
        found.append((detection, best, best < 0 and any(image.truth_crowd[box] for box in reached)))
    return found


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(1, 4))
def test_agrees_with_loops(tmp_path_factory, seed, classes):
    records = as_records(tmp_path_factory.mktemp("set"), *random_set(seed, images=6, classes=classes))
    found = match_all(records, IOUS)
    first = np.cumsum([0, *(len(image.scores) for image in records.images)])
    assert found.scores.tolist() == [score for image in records.images for score in image.scores.tolist()]
    for row, threshold in enumerate(IOUS):
        correct, ignored = np.zeros(first[-1], bool), np.zeros(first[-1], bool)
        for start, image in zip(first, records.images):
            for index in range(classes):
                for detection, box, skipped in by_loops(image, index, threshold):
                    correct[start + detection], ignored[start + detection] = box >= 0, skipped
        np.testing.assert_array_equal(found.correct[row], correct)
        np.testing.assert_array_equal(found.ignored[row], ignored)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from(IOUS), limit=st.sampled_from([None, 1, 2]))
def test_finds_of_each_class_are_those_of_loops(tmp_path_factory, seed, threshold, limit):
    records = as_records(tmp_path_factory.mktemp("set"), *random_set(seed, images=6))
    for index, matches in enumerate(match_classes(records, threshold, limit)):
        expected = [
            (place, *one)
            for place, image in enumerate(records.images)
            for one in by_loops(image, index, threshold, limit)
        ]
        columns = (matches.image, matches.detection, matches.truth, matches.ignored)
        assert sorted(zip(*(column.tolist() for column in columns))) == expected
        scores = [records.images[place].scores[detection] for place, detection in zip(*columns[:2])]
        assert matches.scores.tolist() == scores == sorted(scores, reverse=True)


def test_detections_out_of_order_are_refused():
    box = np.array([[0.0, 0, 9, 9]] * 2)
    none = np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool)
    image = ImageRecord(1, *none, box, np.zeros(2, np.int64), np.array([0.2, 0.7]))
    with pytest.raises(ValueError, match="falling score"):
        match_all(DetectionRecords((image,), ("ship",)))


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
