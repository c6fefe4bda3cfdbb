"""Analyses as files, and their plots."""

import json

import numpy as np
import pytest
from PIL import Image

from loradet.evaluation.detections.records import DetectionRecords, ImageRecord
from loradet.visualization.analysis import analyse
from loradet.visualization.plots import save_figure

NAMES = ["precision_recall", "confusion_matrix", "error_breakdown"]


def records(classes: int = 2, *, empty: bool = False, synthetic: bool = False) -> DetectionRecords:
    truth = [] if empty else [([10 * c, 10, 8, 8], c, False) for c in range(classes)]
    found = [([10 * c, 10, 8, 8], c, 0.9) for c in range(0, classes, 2)]
    names = tuple(f"class{c}" for c in range(classes))
    return DetectionRecords((ImageRecord.from_lists(1, truth, found),), names, synthetic)


@pytest.mark.parametrize("data", [records(), records(30), records(empty=True)], ids=["few", "many", "nothing to find"])
def test_each_is_written_as_numbers_and_picture(tmp_path, data):
    written = analyse(data, tmp_path / "new", title="a model on val")
    assert sorted(path.name for path in written) == sorted(
        f"{name}.{kind}" for name in NAMES for kind in ("json", "png")
    )
    for name in NAMES:
        content = json.loads((tmp_path / "new" / f"{name}.json").read_text())
        assert content["title"] == "a model on val, 1 images"
        assert "data" not in content
        image = np.asarray(Image.open(tmp_path / "new" / f"{name}.png").convert("RGB"))
        assert min(image.shape[:2]) > 300
        assert len(np.unique(image @ np.array([1, 256, 65536]))) > 20  # something is drawn


def test_files_are_the_same_each_time(tmp_path):
    first, second = (analyse(records(), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_plots_of_synthetic_images_say_so(tmp_path, monkeypatch):
    titles = []

    def save(path, figure):
        titles.append(figure.get_suptitle())
        return save_figure(path, figure)

    monkeypatch.setattr("loradet.visualization.analysis.save_figure", save)
    analyse(records(synthetic=True), tmp_path, title="x")
    assert len(titles) == 3
    assert all("1 synthetic images" in title for title in titles)
    assert json.loads((tmp_path / "error_breakdown.json").read_text())["data"] == "synthetic"


def test_thresholds_reach_the_matrix(tmp_path):
    analyse(records(), tmp_path, score_threshold=0.95, iou_threshold=0.7)
    content = json.loads((tmp_path / "confusion_matrix.json").read_text())
    assert (content["score_threshold"], content["iou_threshold"]) == (0.95, 0.7)
    assert content["counts"] == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_no_images(tmp_path):
    with pytest.raises(ValueError, match="no images"):
        analyse(DetectionRecords((), ("a",)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
