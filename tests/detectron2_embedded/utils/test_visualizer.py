"""What is painted, and where."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer
from PIL import Image


class Metadata(SimpleNamespace):
    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


@pytest.fixture
def image() -> np.ndarray:
    return np.zeros((120, 160, 3), dtype=np.uint8)


METADATA = Metadata(thing_classes=["ship", "tank"], thing_colors=[[255, 0, 0], [0, 0, 255]])


def changed(output: VisImage) -> np.ndarray:
    return output.get_image().any(axis=2)


def test_draw_box(image: np.ndarray) -> None:
    visualizer = Visualizer(image)
    painted = visualizer.draw_box((40, 30, 100, 90), alpha=1.0, edge_color=(1.0, 0.0, 0.0)).get_image()
    ys, xs = painted.any(axis=2).nonzero()
    assert abs(xs.min() - 40) <= 2
    assert abs(xs.max() - 100) <= 2
    assert abs(ys.min() - 30) <= 2
    assert abs(ys.max() - 90) <= 2
    assert not painted[50:70, 60:80].any(), "a box is not filled"
    assert tuple(painted[30, 70]) == (255, 0, 0)
    assert not image.any(), "the image given is left alone"


def test_dashes_paint_less(image: np.ndarray) -> None:
    box = (10, 10, 150, 110)
    whole = changed(Visualizer(image).draw_box(box, alpha=1)).sum()
    dashed = changed(Visualizer(image).draw_box(box, alpha=1, line_style="--")).sum()
    assert 0 < dashed < 0.9 * whole


def test_scale(image: np.ndarray) -> None:
    visualizer = Visualizer(image, scale=2.0)
    visualizer.draw_box((40, 30, 100, 90))
    painted = visualizer.get_output().get_image()
    assert painted.shape == (240, 320, 3)
    ys, xs = painted.any(axis=2).nonzero()
    assert abs(xs.min() - 80) <= 4
    assert abs(ys.max() - 180) <= 4


@pytest.mark.parametrize(("alignment", "left", "right"), [("left", 80, 159), ("right", 0, 80), ("center", 40, 120)])
def test_draw_text(image: np.ndarray, alignment: str, left: int, right: int) -> None:
    visualizer = Visualizer(np.full_like(image, 255))
    painted = visualizer.draw_text("ship", (80, 40), font_size=16, color="r", horizontal_alignment=alignment)
    ys, xs = (painted.get_image() != 255).any(axis=2).nonzero()
    assert len(xs) > 20
    assert left - 4 <= xs.min()
    assert xs.max() <= right + 4
    assert ys.min() >= 36


def test_predictions(image: np.ndarray) -> None:
    predictions = Instances((120, 160))
    predictions.pred_boxes = Boxes(torch.tensor([[10.0, 10, 70, 60], [90, 60, 150, 110]]))
    predictions.scores = torch.tensor([0.9, 0.4])
    predictions.pred_classes = torch.tensor([0, 1])
    output = Visualizer(image, METADATA, instance_mode=ColorMode.SEGMENTATION).draw_instance_predictions(
        predictions, jittering=False
    )
    painted = output.get_image().astype(int)
    red, blue = painted[58:62, 40].sum(axis=0), painted[108:112, 120].sum(axis=0)
    assert red[0] > 100
    assert red[2] == 0
    assert blue[2] > 100
    assert blue[0] == 0


def test_no_predictions(image: np.ndarray) -> None:
    predictions = Instances((120, 160))
    predictions.pred_boxes = Boxes(torch.zeros(0, 4))
    predictions.scores = torch.zeros(0)
    predictions.pred_classes = torch.zeros(0, dtype=torch.int64)
    assert not Visualizer(image, METADATA).draw_instance_predictions(predictions).get_image().any()


def test_dataset_dict(image: np.ndarray) -> None:
    dic = {
        "annotations": [
            {"bbox": [20, 20, 60, 50], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "iscrowd": 1},
        ]
    }
    painted = changed(Visualizer(image, METADATA).draw_dataset_dict(dic))
    assert painted[69:72, 50].any()
    assert painted[40, 79:82].any()
    assert not changed(Visualizer(image, METADATA).draw_dataset_dict({"annotations": []})).any()


def test_labels_show_names_scores_and_crowds(image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []

    def note(self: Visualizer, text: str, *args: Any, **kwargs: Any) -> VisImage:  # noqa: ARG001
        texts.append(text)
        return self.output

    monkeypatch.setattr(Visualizer, "draw_text", note)
    predictions = Instances((120, 160))
    predictions.pred_boxes = Boxes(torch.tensor([[10.0, 10, 20, 20], [90, 60, 150, 110]]))
    predictions.scores = torch.tensor([0.9, 0.4])
    predictions.pred_classes = torch.tensor([0, 7])
    Visualizer(image, METADATA).draw_instance_predictions(predictions)
    annotation = {"bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "iscrowd": 1}
    Visualizer(image, METADATA).draw_dataset_dict({"annotations": [annotation]})
    assert texts == ["7 40%", "ship 90%", "tank |crowd"]


def test_save(image: np.ndarray, tmp_path: Path) -> None:
    output = Visualizer(image).draw_box((10, 10, 50, 50))
    output.save(str(tmp_path / "a.png"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), output.get_image())
    with pytest.raises(ValueError, match="nothing"):
        output.save(str(tmp_path / "a.nothing"))


def test_gray_mode() -> None:
    colorful = np.zeros((10, 10, 3), dtype=np.uint8)
    colorful[..., 0] = 90
    painted = Visualizer(colorful, instance_mode=ColorMode.IMAGE_BW).get_output().get_image()
    assert (painted == 30).all()


def test_what_is_missing_says_so(image: np.ndarray) -> None:
    visualizer = Visualizer(image)
    with pytest.raises(NotImplementedError, match="installed"):
        visualizer.overlay_instances(boxes=None, masks=[1])
    predictions = Instances((120, 160))
    predictions.pred_masks = torch.zeros(1, 120, 160)
    with pytest.raises(NotImplementedError, match="pred_masks"):
        visualizer.draw_instance_predictions(predictions)
    with pytest.raises(ValueError, match="2 labels for 1 boxes"):
        visualizer.overlay_instances(boxes=[[0, 0, 1, 1]], labels=["a", "b"])
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        Visualizer(image[..., 0])
