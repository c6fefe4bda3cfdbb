"""RetinaNet as a whole, against numbers recorded from Detectron2."""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone, RetinaNet
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

pytestmark = pytest.mark.golden


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


@pytest.fixture(scope="module")
def recorded(golden_d2: Path) -> SimpleNamespace:
    with np.load(golden_d2 / "retinanet.npz", allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        arrays = {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}
    return SimpleNamespace(meta=meta, arrays=arrays)


def build(recorded: SimpleNamespace, **options) -> RetinaNet:
    meta, arrays = recorded.meta, recorded.arrays
    bottom_up = TinyBottomUp(meta["bottom_up"], meta["first_stride"])
    source = meta["p6p7_in_feature"]
    channels = bottom_up.output_shape()[source].channels if source in bottom_up.output_shape() else None
    backbone = FPN(
        bottom_up,
        in_features=list(bottom_up.output_shape()),
        out_channels=meta["fpn_channels"],
        norm=meta["fpn_norm"],
        fuse_type=meta["fuse_type"],
        top_block=LastLevelP6P7(channels or meta["fpn_channels"], meta["fpn_channels"], in_feature=source),
    )
    generator = DefaultAnchorGenerator(
        sizes=[[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in meta["anchor_base"]],
        aspect_ratios=meta["aspect_ratios"],
        strides=[8, 16, 32, 64, 128],
        offset=meta["offset"],
    )
    head = RetinaNetHead(
        input_shape=[ShapeSpec(channels=meta["fpn_channels"])] * 5,
        num_classes=meta["num_classes"],
        conv_dims=meta["conv_dims"],
        norm=meta["head_norm"],
        num_anchors=generator.num_anchors[0],
    )
    model = RetinaNet(
        backbone=backbone,
        head=head,
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        anchor_generator=generator,
        box2box_transform=Box2BoxTransform(meta["box_weights"]),
        anchor_matcher=Matcher(meta["matcher_thresholds"], meta["matcher_labels"], allow_low_quality_matches=True),
        num_classes=meta["num_classes"],
        focal_loss_alpha=meta["focal_loss_alpha"],
        focal_loss_gamma=meta["focal_loss_gamma"],
        pixel_mean=meta["pixel_mean"],
        pixel_std=meta["pixel_std"],
        **options,
    )
    weights = {key.removeprefix("w/"): value for key, value in arrays.items() if key.startswith("w/")}
    model.load_state_dict(weights, strict=True)
    return model


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


def test_intermediate_results(recorded):
    model, arrays = build(recorded).eval(), recorded.arrays
    with torch.no_grad():
        images = model.preprocess_image(batch(recorded))
        features = model.backbone(images.tensor)
        maps = [features[name] for name in model.head_in_features]
        anchors = model.anchor_generator(maps)
        logits, deltas = model.head(maps)
    assert list(images.tensor.shape) == recorded.meta["padded_shape"]
    produced = {f"features/{name}": value for name, value in features.items()}
    for name, values in (
        ("anchors", [boxes.tensor for boxes in anchors]),
        ("logits", logits),
        ("deltas", deltas),
    ):
        produced |= {f"head/{name}/{level}": value for level, value in enumerate(values)}
    compared = [key for key in arrays if key.startswith(("features/", "head/"))]
    assert compared
    for key in compared:
        torch.testing.assert_close(produced[key], arrays[key], rtol=1e-4, atol=1e-4)


def test_detections(recorded):
    for config, options in recorded.meta["infer_configs"].items():
        model = build(recorded, **options).eval()
        with torch.no_grad():
            results = model(batch(recorded))
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


def test_losses_events_and_gradients(recorded):
    meta, arrays = recorded.meta, recorded.arrays
    for name, options in meta["loss_configs"].items():
        model = build(recorded, **options).train()
        for step in range(meta["num_steps"]):
            prefix = f"train/{name}/step{step}"
            model.zero_grad()
            with EventStorage() as storage:
                losses = model(batch(recorded, step))
                produced = {key: loss.detach() for key, loss in losses.items()}
                produced["loss_normalizer"] = model.loss_normalizer
                produced |= {f"event/{key}": value for key, (value, _) in storage.latest().items()}
            compared = [key for key in arrays if key.startswith(prefix + "/")]
            assert {key.removeprefix(prefix + "/") for key in compared} == set(produced)
            for key in compared:
                value = float(produced[key.removeprefix(prefix + "/")])
                assert value == pytest.approx(float(arrays[key]), rel=2e-5), key
            sum(losses.values()).backward()
            if step == 0:
                check_gradients(model, arrays, f"train/{name}")


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
