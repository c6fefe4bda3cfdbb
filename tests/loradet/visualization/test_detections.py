"""Painting what a model finds, from a config and a checkpoint."""

import json

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, DatasetMapper, build_detection_test_loader
from detectron2.structures import Boxes, BoxMode, Instances
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from loradet.datasets import coco_dataset
from loradet.visualization import detections
from loradet.visualization.painting import class_colors


class CornerDetector(nn.Module):
    """Finds a box at a learned place in every image, with a sure and an unsure score."""

    def __init__(self, num_classes: int = 2):
        super().__init__()
        self.num_classes = num_classes
        self.corner = nn.Parameter(torch.zeros(4))

    def forward(self, inputs):
        assert not self.training
        outputs = []
        for record in inputs:
            instances = Instances((record["height"], record["width"]))
            instances.pred_boxes = Boxes(self.corner.repeat(2, 1))
            instances.scores = torch.tensor([0.9, 0.1])
            instances.pred_classes = torch.tensor([1, 0])
            outputs.append({"instances": instances})
        return outputs


@pytest.fixture
def cfg(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    content = {"images": [], "annotations": [], "categories": [{"id": 5, "name": "ship"}, {"id": 9, "name": "car"}]}
    for i in range(6):
        Image.fromarray(np.full((96, 128, 3), 60, np.uint8)).save(images / f"im{i}.png")
        content["images"].append({"id": 10 + i, "file_name": f"im{i}.png", "height": 96, "width": 128})
        if i % 2:
            box = {"id": i, "image_id": 10 + i, "category_id": 5, "bbox": [30, 30, 40, 40], "area": 1600, "iscrowd": 0}
            content["annotations"].append(box)
    (tmp_path / "val.json").write_text(json.dumps(content))
    name = f"painted_{tmp_path.name}"
    yield OmegaConf.create(
        {
            "model": L(CornerDetector)(num_classes=2),
            "train": {"device": "cpu"},
            "dataloader": {
                "val": L(build_detection_test_loader)(
                    dataset=L(coco_dataset)(
                        json_file=str(tmp_path / "val.json"), image_root=str(images), classes=None, name=name
                    ),
                    mapper=L(DatasetMapper)(is_train=False, augmentations=[], image_format="RGB"),
                )
            },
        },
        flags={"allow_objects": True},
    )
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)


@pytest.fixture
def checkpoint(tmp_path):
    torch.save({"model": {"corner": torch.tensor([10.0, 20.0, 50.0, 60.0])}}, tmp_path / "model_best.pth")
    return tmp_path / "model_best.pth"


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
