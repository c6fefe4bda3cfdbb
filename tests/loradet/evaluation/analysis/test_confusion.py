"""The confusion matrix, against a plain search and by hand."""

import numpy as np
import pytest
from helpers.detection_sets import as_records, one_image, random_set

from loradet.evaluation.analysis.confusion import confusion_matrix


def iou(a: list, b: list, crowd: bool = False) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inner = max(width, 0) * max(height, 0)
    return inner / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - inner)


def brute_force(truth: dict, detections: list[dict], score: float, threshold: float) -> np.ndarray:
    """Again and again the best pair that is left."""
    place = {category["id"]: number for number, category in enumerate(truth["categories"])}
    counts = np.zeros((len(place) + 1, len(place) + 1), int)
    for image in truth["images"]:
        boxes = [entry for entry in truth["annotations"] if entry["image_id"] == image["id"]]
        found = [entry for entry in detections if entry["image_id"] == image["id"] and entry["score"] >= score]
        crowds = [entry for entry in boxes if entry["iscrowd"]]
        boxes = [entry for entry in boxes if not entry["iscrowd"]]
        while pairs := [
            (iou(d["bbox"], g["bbox"]), d["score"], -found.index(d), -boxes.index(g), d, g)
            for d in found
            for g in boxes
            if iou(d["bbox"], g["bbox"]) >= threshold
        ]:
            *_, detection, box = max(pairs, key=lambda pair: pair[:4])
            counts[place[box["category_id"]], place[detection["category_id"]]] += 1
            found = [entry for entry in found if entry is not detection]
            boxes = [entry for entry in boxes if entry is not box]
        for entry in boxes:
            counts[place[entry["category_id"]], -1] += 1
        for entry in found:
            own = [crowd for crowd in crowds if crowd["category_id"] == entry["category_id"]]
            if not any(iou(entry["bbox"], crowd["bbox"], crowd=True) >= threshold for crowd in own):
                counts[-1, place[entry["category_id"]]] += 1
    return counts


@pytest.mark.parametrize("seed", range(40))
def test_agrees_with_a_plain_search(tmp_path, seed):
    truth, detections = random_set(seed)
    # Two that are equal in box and score cannot be told apart in order.
    detections = [{**entry, "score": entry["score"] - 1e-6 * n} for n, entry in enumerate(detections)]
    records = as_records(tmp_path, truth, detections)
    for score, threshold in ((0.3, 0.5), (0.0, 0.75), (0.6, 0.1)):
        matrix = confusion_matrix(records, score, threshold)
        expected = brute_force(truth, detections, score, threshold)
        np.testing.assert_array_equal(matrix.counts, expected)
        np.testing.assert_array_equal(matrix.counts[:-1].sum(axis=1), records.count_truth())


def test_by_hand(tmp_path):
    truth = [(0, [0, 0, 10, 10]), (1, [50, 50, 10, 10]), (0, [80, 0, 10, 10]), (1, [0, 60, 30, 30], "crowd")]
    found = [
        (0, [0, 0, 10, 9], 0.9),  # right
        (0, [0, 0, 10, 10], 0.2),  # under the score threshold
        (0, [50, 50, 10, 10], 0.8),  # the wrong class
        (1, [51, 50, 10, 10], 0.7),  # the right class, but the other one fits better
        (1, [5, 65, 8, 8], 0.6),  # in a crowd of its class: not counted
        (0, [5, 65, 8, 8], 0.6),  # in a crowd of another class
    ]
    matrix = confusion_matrix(as_records(tmp_path, *one_image(truth, found)), 0.3, 0.5)
    assert matrix.counts.tolist() == [[1, 0, 1], [1, 0, 0], [1, 1, 0]]
    assert matrix.to_dict()["labels"] == ["class0", "class1", "background"]
    assert matrix.to_dict()["counts"] == matrix.counts.tolist()


@pytest.mark.parametrize("thresholds", [(0.3, 0.0), (0.3, 1.2), (-0.1, 0.5), (1.5, 0.5)])
def test_thresholds_out_of_range(tmp_path, thresholds):
    with pytest.raises(ValueError, match="Thresholds"):
        confusion_matrix(as_records(tmp_path, *random_set(0)), *thresholds)
