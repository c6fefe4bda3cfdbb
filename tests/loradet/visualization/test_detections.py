"""Painting what a model finds, from a config and a checkpoint."""

import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode
from PIL import Image

from loradet.visualization import detections
from loradet.visualization.painting import class_colors


@pytest.fixture
def checkpoint(checkpoint_of):
    return checkpoint_of(10.0, 20.0, 50.0, 60.0)


def has(image: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((image == np.array(color)).all(axis=2).any())


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_folder_of_pairs(cfg, checkpoint, tmp_path):
    written = detections.paint_split(cfg, checkpoint, tmp_path / "out", num_images=3)
    assert [path.name for path in written] == ["val_0_im1.png", "val_1_im3.png", "val_2_im5.png"]
    ship, car = class_colors(2)
    for path in written:
        image = read(path)
        half = image.shape[1] // 2
        assert has(image[:, :half], ship)  # ground truth
        assert not has(image[:, :half], car)
        assert has(image[:, half:], car)  # detections, of which the unsure one is left out
        assert not has(image[:, half:], ship)


def test_the_threshold_decides(cfg, checkpoint, tmp_path):
    written = detections.paint_split(
        cfg, checkpoint, tmp_path / "a.png", num_images=1, score_threshold=0.05, ground_truth=False
    )
    assert has(read(written[0]), class_colors(2)[0])


@pytest.mark.parametrize("name", ["sheet.png", "folder"])
def test_a_sheet(cfg, checkpoint, tmp_path, name):
    written = detections.paint_split(cfg, checkpoint, tmp_path / name, num_images=8, sheet=True)
    assert written == [tmp_path / name / "detections.png" if name == "folder" else tmp_path / name]
    assert read(written[0]).shape[0] > 3 * 240  # six images, two a row


def test_a_subset_is_painted_whole(cfg, checkpoint, tmp_path):
    names = [
        [path.name for path in detections.paint_split(cfg, checkpoint, tmp_path / str(n), subset=3, num_images=n)]
        for n in (None, 2)
    ]
    assert len(names[0]) == 3
    assert len(names[1]) == 2
    assert {name[6:] for name in names[1]} <= {name[6:] for name in names[0]}


@pytest.mark.parametrize("synthetic", [False, True])
def test_a_sheet_of_synthetic_images_says_so(config_of, checkpoint, tmp_path, texts, synthetic):
    detections.paint_split(config_of("toy", synthetic=synthetic), checkpoint, tmp_path / "a.png", sheet=True)
    assert ("synthetic images" in texts[0]) == synthetic
    assert "im1.png: ground truth" in texts


def test_several_images_do_not_fit_into_one_file(cfg, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="--contact-sheet"):
        detections.paint_split(cfg, checkpoint, tmp_path / "a.png", num_images=2)


def test_wrong_split_and_wrong_checkpoint_are_named(cfg, tmp_path):
    with pytest.raises(ValueError, match="val"):
        detections.paint_split(cfg, tmp_path / "model.pth", tmp_path, split="valid")
    torch.save({"model": {"other": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth"):
        detections.paint_split(cfg, tmp_path / "other.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_are_spread_over_those_with_boxes():
    records = [{"id": i, "annotations": [0] * (i % 2)} for i in range(20)]
    assert [record["id"] for record in detections.choose_records(records, 3)] == [1, 9, 19]
    assert [record["id"] for record in detections.choose_records(records, 1)] == [1]
    assert len(detections.choose_records(records, 15)) == 15
    assert len(detections.choose_records(records, 50)) == 20
    with pytest.raises(ValueError, match="nothing to paint"):
        detections.choose_records([], 3)


def test_annotations_are_converted():
    record = {"annotations": [{"bbox": [10, 20, 30, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}]}
    assert detections.annotated_boxes(record).boxes.tolist() == [[10, 20, 40, 60]]
    assert len(detections.annotated_boxes({})) == 0
