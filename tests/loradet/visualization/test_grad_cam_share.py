"""The hottest pixels of the detector that ships with the project, on scenes of the kind that it was trained on."""

import json

import pytest
import torch

from loradet.config import load_config
from loradet.datasets.synthetic import generate
from loradet.evaluation.split_loop import dataset_metadata, load_dataset
from loradet.model import initial_model
from loradet.visualization.grad_cam.pictures import paint_grad_cam

IMAGES = 64


@pytest.mark.slow
def test_the_hottest_pixel_lies_in_the_box(tmp_path):
    generate(tmp_path / "data", style="optical", counts={"train": 1, "val": IMAGES}, size=(192, 192), seed=1)
    overrides = [f"data.root={tmp_path / 'data'}", "data.name=shipped", "train.device=cpu"]
    cfg = load_config("configs/quickstart.py", overrides)
    load_dataset(cfg, "train")
    model = initial_model(cfg, device=torch.device("cpu"), metadata=dataset_metadata(cfg, "train"))
    torch.save({"model": model.state_dict()}, tmp_path / "shipped.pth")

    written = paint_grad_cam(cfg, tmp_path / "shipped.pth", tmp_path / "cams", split="val", subset=IMAGES)

    assert len(written) == IMAGES + 2
    numbers = json.loads((tmp_path / "cams" / "grad_cam.json").read_text())
    assert numbers["num_detections"] == len(numbers["detections"]) >= 2 * IMAGES
    inside = []
    for line in numbers["detections"]:
        x, y = line["hottest_xy"]
        left, top, right, bottom = line["box_xyxy"]
        inside.append(left <= x + 0.5 <= right and top <= y + 0.5 <= bottom)
        assert line["score"] >= 0.3
    assert numbers["hottest_in_box_share"] == pytest.approx(sum(inside) / len(inside))
    assert numbers["hottest_in_box_share"] >= 0.9  # 0.941 of 219; with gradients averaged over the map about 0.2
