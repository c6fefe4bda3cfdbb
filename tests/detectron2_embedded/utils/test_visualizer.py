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
    predictions.pred_classes = torch.tensor([0, 1])
    Visualizer(image, METADATA).draw_instance_predictions(predictions)
    annotation = {"bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "iscrowd": 1}
    Visualizer(image, METADATA).draw_dataset_dict({"annotations": [annotation]})
    assert texts == ["tank 40%", "ship 90%", "tank|crowd"]


@pytest.mark.subset  # an IndexError in Detectron2 0.6
def test_a_class_without_a_name_shows_its_number(image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    monkeypatch.setattr(Visualizer, "draw_text", lambda _, text, *__, **___: texts.append(text))
    predictions = Instances((120, 160))
    predictions.pred_boxes = Boxes(torch.tensor([[10.0, 10, 20, 20]]))
    predictions.pred_classes = torch.tensor([7])
    Visualizer(image, METADATA).draw_instance_predictions(predictions)
    assert texts == ["7"]


def test_save(image: np.ndarray, tmp_path: Path) -> None:
    output = Visualizer(image).draw_box((10, 10, 50, 50))
    output.save(str(tmp_path / "a.png"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png").convert("RGB")), output.get_image())
    with pytest.raises(ValueError):
        output.save(str(tmp_path / "a.nothing"))


def test_gray_mode() -> None:
    colorful = np.zeros((60, 60, 3), dtype=np.uint8)
    colorful[..., 0] = 90
    predictions = Instances((60, 60))
    predictions.pred_boxes = Boxes(torch.zeros(0, 4))
    visualizer = Visualizer(colorful, instance_mode=ColorMode.IMAGE_BW)
    assert (visualizer.get_output().get_image() == colorful).all()
    painted = visualizer.draw_instance_predictions(predictions).get_image()
    assert (painted == 30).all()


def test_reset_image(image: np.ndarray) -> None:
    output = VisImage(image, scale=2.0)
    output.reset_image(np.full_like(image, 7))
    assert output.get_image().shape == (240, 320, 3)
    assert (output.get_image() == 7).all()


def text_pixels(image: np.ndarray, **options: float) -> tuple[int, int]:
    """Height and width of a text on white."""
    painted = Visualizer(np.full_like(image, 255), **options).draw_text("ship", (80, 20)).get_image()
    ys, xs = (painted != 255).any(axis=2).nonzero()
    return int(np.ptp(ys)), int(np.ptp(xs))


def test_font_size_scale(image: np.ndarray) -> None:
    height, width = text_pixels(image)
    tall, wide = text_pixels(image, font_size_scale=2.0)
    assert 1.6 * height < tall < 2.4 * height
    assert 1.6 * width < wide < 2.4 * width


def test_draw_circle(image: np.ndarray) -> None:
    painted = changed(Visualizer(image).draw_circle((80, 60), "r", radius=20))
    ys, xs = painted.nonzero()
    for found, expected in zip((xs.min(), xs.max(), ys.min(), ys.max()), (60, 100, 40, 80)):
        assert abs(found - expected) <= 2
    assert painted[60, 80] and painted[60, 97]
    assert abs(painted.sum() - np.pi * 20**2) < 200
    assert not painted[43, 63]


def test_draw_line(image: np.ndarray) -> None:
    painted = Visualizer(image).draw_line([20, 100, 100], [30, 30, 90], (0.0, 1.0, 0.0)).get_image()
    assert painted[30, 60, 1] > 200 and painted[60, 100, 1] > 200
    assert not painted[80:, :90].any()
    thin = changed(Visualizer(image).draw_line([20, 100], [30, 30], "g", linewidth=1))[:, 60].sum()
    thick = changed(Visualizer(image).draw_line([20, 100], [30, 30], "g", linewidth=9))[:, 60].sum()
    assert 1 <= thin < 4 < thick
    styles = {
        style: changed(Visualizer(image).draw_line([0, 159], [30, 30], "g", style))[30].sum()
        for style in ("-", "--", ":", "-.")
    }
    assert all(0.2 * styles["-"] < styles[style] < 0.95 * styles["-"] for style in ("--", ":", "-."))


def test_draw_polygon(image: np.ndarray) -> None:
    square = np.array([[40, 30], [100, 30], [100, 90], [40, 90]])
    painted = Visualizer(image).draw_polygon(square, (1.0, 0.0, 0.0), edge_color=(0.0, 0.0, 1.0)).get_image()
    assert 100 < painted[60, 70, 0] < 150
    assert painted[60, 70, 2] == 0
    assert painted[60, 39:42, 2].max() > 100
    assert not painted[:25].any() and not painted[:, 110:].any()
    dark = Visualizer(image).draw_polygon(square, (1.0, 0.0, 0.0), alpha=1.0).get_image()
    assert dark[60, 70, 0] == 255
    assert dark[60, 39:42, 0].min() < 255


@pytest.mark.subset
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
    with pytest.raises(ValueError, match="'x'"):
        visualizer.draw_box((0, 0, 1, 1), line_style="x")
    with pytest.raises(ValueError, match="2 x for 1 y"):
        visualizer.draw_line([0, 1], [0], "r")
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        visualizer.draw_polygon([[0, 0], [1, 1]], "r")
