"""FCOS as a whole, against numbers recorded from Detectron2."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FCOS, FPN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from helpers.golden_detector import (
    TinyBottomUp,
    batch,
    check_detections,
    check_gradients,
    check_scalars,
    load_weights,
    read,
)

pytestmark = pytest.mark.golden

LEVELS = ["p3", "p4", "p5", "p6", "p7"]


@pytest.fixture(scope="module")
def recorded(golden_d2: Path) -> SimpleNamespace:
    return read(golden_d2 / "fcos.npz")


def build(recorded: SimpleNamespace, **options) -> FCOS:
    """The detector with its first weights."""
    meta = recorded.meta
    torch.manual_seed(meta["seed"])
    bottom_up = TinyBottomUp(meta["bottom_up"], meta["first_stride"])
    channels = meta["fpn_channels"]
    backbone = FPN(
        bottom_up,
        in_features=list(bottom_up.output_shape()),
        out_channels=channels,
        top_block=LastLevelP6P7(channels, channels, in_feature=meta["p6p7_in_feature"]),
    )
    head = FCOSHead(
        input_shape=[ShapeSpec(channels=channels)] * len(LEVELS),
        num_classes=meta["num_classes"],
        conv_dims=meta["conv_dims"],
        norm=meta["head_norm"],
    )
    return FCOS(
        backbone=backbone,
        head=head,
        head_in_features=LEVELS,
        num_classes=meta["num_classes"],
        pixel_mean=meta["pixel_mean"],
        pixel_std=meta["pixel_std"],
        **options,
    )


def trained(recorded: SimpleNamespace, **options) -> FCOS:
    """The detector with the recorded weights."""
    model = build(recorded, **options)
    load_weights(model, recorded)
    return model


def test_names_and_first_weights_of_a_seed(recorded):
    model = build(recorded)
    assert list(model.state_dict()) == recorded.meta["keys"]
    for name, parameter in model.named_parameters():
        values = parameter.detach().double().flatten()
        along = float(values @ torch.arange(len(values), dtype=torch.float64).cos())
        assert along == pytest.approx(recorded.meta["init"][name], abs=1e-6), name


def test_intermediate_results(recorded):
    model = trained(recorded).eval()
    with torch.no_grad():
        images = model.preprocess_image(batch(recorded))
        features = model.backbone(images.tensor)
        maps = [features[name] for name in model.head_in_features]
        logits, deltas, centerness = model.head(maps)
    assert list(images.tensor.shape) == recorded.meta["padded_shape"]
    anchors = [boxes.tensor for boxes in model.anchor_generator(maps)]
    produced = {"logits": logits, "deltas": deltas, "centerness": centerness, "anchors": anchors}
    for name, values in produced.items():
        for level, value in enumerate(values):
            torch.testing.assert_close(value, recorded.arrays[f"head/{name}/{level}"], rtol=1e-4, atol=1e-4)


def test_detections(recorded):
    for config, options in recorded.meta["infer_configs"].items():
        check_detections(trained(recorded, **options), recorded, config)


def test_losses_events_and_gradients(recorded):
    meta = recorded.meta
    for name, options in meta["loss_configs"].items():
        model = trained(recorded, **options).train()
        for step in range(meta["num_steps"]):
            model.zero_grad()
            with EventStorage() as storage:
                losses = model(batch(recorded, step))
                produced = {key: loss.detach() for key, loss in losses.items()}
                produced["loss_normalizer"] = model.loss_normalizer
                produced |= {f"event/{key}": value for key, (value, _) in storage.latest().items()}
            check_scalars(produced, meta["scalars"], f"train/{name}/step{step}")
            sum(losses.values()).backward()
            if step == 0:
                check_gradients(model, meta["gradients"], f"train/{name}")


def test_labels_boxes_and_centerness_on_a_large_image(recorded):
    """Nested boxes, boxes of nearly the same area, boxes of every level, and one larger than the image."""
    arrays, match = recorded.arrays, recorded.meta["match"]
    strides = match["strides"]
    generator = DefaultAnchorGenerator(sizes=[[s] for s in strides], aspect_ratios=[1.0], strides=strides)
    anchors = generator([torch.zeros(1, 1, *grid) for grid in match["grids"]])
    truth = Instances((320, 448), gt_boxes=Boxes(arrays["match/boxes"]), gt_classes=arrays["match/classes"])
    for radius in match["radii"]:
        model = build(recorded, center_sampling_radius=radius)
        (labels,), (boxes,) = model.label_anchors(anchors, [truth])
        assert torch.equal(labels, arrays[f"match/{radius}/labels"].long())
        positive = labels != recorded.meta["num_classes"]
        assert torch.equal(boxes[positive], arrays[f"match/{radius}/boxes"])
        centerness = model.compute_ctrness_targets(anchors, [boxes])[0, positive]
        torch.testing.assert_close(centerness, arrays[f"match/{radius}/centerness"], rtol=1e-5, atol=1e-6)
