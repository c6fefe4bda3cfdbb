"""The small detector that numbers were recorded from: its images, its bottom-up network, and comparisons."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances
from torch import nn

from helpers.golden_files import load


class TinyBottomUp(Backbone):
    """A convolution and a ReLU per level."""

    def __init__(self, channels: list[int], first_stride: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        self.convs.append(nn.Conv2d(3, channels[0], first_stride + 1, first_stride, first_stride // 2))
        for before, after in pairwise(channels):
            self.convs.append(nn.Conv2d(before, after, 3, 2, 1))
        strides = [first_stride * 2**i for i in range(len(channels))]
        self._out_features = [f"res{stride.bit_length() - 1}" for stride in strides]
        self._out_feature_channels = dict(zip(self._out_features, channels))
        self._out_feature_strides = dict(zip(self._out_features, strides))

    def forward(self, x):
        outputs = {}
        for name, conv in zip(self._out_features, self.convs):
            x = outputs[name] = conv(x).relu()
        return outputs


def read(path: Path) -> SimpleNamespace:
    meta, arrays = load(path)
    return SimpleNamespace(meta=meta, arrays=arrays)


def load_weights(model: nn.Module, recorded: SimpleNamespace) -> None:
    weights = {key.removeprefix("w/"): value for key, value in recorded.arrays.items() if key.startswith("w/")}
    assert weights
    model.load_state_dict(weights, strict=True)


def batch(recorded: SimpleNamespace, step: int | None = None) -> list[dict]:
    meta, arrays = recorded.meta, recorded.arrays
    items = []
    for i, (height, width) in enumerate(meta["output_sizes"]):
        item = {"image": arrays[f"image/{i}"], "height": height, "width": width}
        if step is not None:
            truth = Instances(tuple(meta["image_sizes"][i]))
            truth.gt_boxes = Boxes(arrays[f"step{step}/gt_boxes/{i}"])
            truth.gt_classes = arrays[f"step{step}/gt_classes/{i}"]
            item["instances"] = truth
        items.append(item)
    return items


def check_detections(model: nn.Module, recorded: SimpleNamespace, config: str) -> None:
    with torch.no_grad():
        results = model.eval()(batch(recorded))
    for i, result in enumerate(results):
        instances = result["instances"]
        expected = {
            name: recorded.arrays[f"infer/{config}/{i}/{name}"] for name in ("pred_boxes", "scores", "pred_classes")
        }
        assert len(instances) == recorded.meta["detections"][f"{config}/{i}"]
        assert list(instances.image_size) == recorded.meta["output_sizes"][i]
        assert torch.equal(instances.pred_classes, expected["pred_classes"])
        torch.testing.assert_close(instances.scores, expected["scores"], rtol=0, atol=1e-4)
        torch.testing.assert_close(instances.pred_boxes.tensor, expected["pred_boxes"], rtol=2e-4, atol=2e-3)


def check_scalars(produced: dict[str, Any], arrays: dict[str, torch.Tensor], prefix: str) -> None:
    """Losses and events: the same names, and numbers within the tolerance."""
    compared = {key.removeprefix(f"{prefix}/"): value for key, value in arrays.items() if key.startswith(f"{prefix}/")}
    assert set(compared) == set(produced)
    for key, value in compared.items():
        assert float(produced[key]) == pytest.approx(float(value), rel=2e-5), f"{prefix}/{key}"


def check_gradients(model: nn.Module, arrays: dict[str, torch.Tensor], prefix: str) -> None:
    parameters = dict(model.named_parameters())
    norms = {name: float(arrays[f"{prefix}/grad_norm/{name}"]) for name in parameters}
    largest = max(norms.values())
    for name, parameter in parameters.items():
        gradient = parameter.grad.double().flatten()
        along = gradient @ torch.arange(len(gradient), dtype=torch.float64).cos()
        tolerance = 5e-3 * max(norms[name], 1e-3 * largest)
        assert float(gradient.norm()) == pytest.approx(norms[name], rel=0, abs=tolerance), name
        assert float(along) == pytest.approx(float(arrays[f"{prefix}/grad_dot/{name}"]), rel=0, abs=tolerance), name
