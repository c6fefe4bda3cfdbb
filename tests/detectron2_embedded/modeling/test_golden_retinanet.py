"""RetinaNet as a whole, against numbers recorded from Detectron2."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, RetinaNet
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
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


@pytest.fixture(scope="module")
def recorded(golden_d2: Path) -> SimpleNamespace:
    return read(golden_d2 / "retinanet.npz")


def build(recorded: SimpleNamespace, **options) -> RetinaNet:
    meta = recorded.meta
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
    load_weights(model, recorded)
    return model


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
        check_detections(build(recorded, **options), recorded, config)


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
            check_scalars(produced, arrays, prefix)
            sum(losses.values()).backward()
            if step == 0:
                check_gradients(model, arrays, f"train/{name}")
