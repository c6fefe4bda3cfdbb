"""Faster and Cascade R-CNN as a whole, and the pooler by itself, against numbers recorded from Detectron2."""

import builtins
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, GeneralizedRCNN, ProposalNetwork, StandardROIHeads
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNConvFCHead, FastRCNNOutputLayers
from detectron2.structures import Boxes
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
from helpers.golden_files import close, load

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module", params=["faster_rcnn", "cascade_rcnn"])
def recorded(request: pytest.FixtureRequest, golden_d2: Path) -> SimpleNamespace:
    return read(golden_d2 / f"{request.param}.npz")


def build_rpn(meta: dict) -> RPN:
    generator = DefaultAnchorGenerator(
        sizes=meta["anchor_sizes"],
        aspect_ratios=meta["aspect_ratios"],
        strides=[4, 8, 16, 32, 64],
        offset=meta["offset"],
    )
    return RPN(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=StandardRPNHead(
            in_channels=meta["fpn_channels"], num_anchors=generator.num_anchors[0], conv_dims=meta["rpn_conv_dims"]
        ),
        anchor_generator=generator,
        anchor_matcher=Matcher(meta["rpn_thresholds"], meta["rpn_labels"], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform(meta["rpn_box_weights"]),
        batch_size_per_image=meta["rpn_batch_size_per_image"],
        positive_fraction=meta["rpn_positive_fraction"],
        pre_nms_topk=meta["pre_nms_topk"],
        post_nms_topk=meta["post_nms_topk"],
        nms_thresh=meta["rpn_nms_thresh"],
        **meta["rpn_loss"],
    )


def build_roi_heads(meta: dict, options: dict) -> StandardROIHeads:
    def box_head() -> FastRCNNConvFCHead:
        side = meta["pooler"]["output_size"]
        return FastRCNNConvFCHead(ShapeSpec(channels=meta["fpn_channels"], height=side, width=side), **meta["head"])

    def predictor(head: FastRCNNConvFCHead, weights: list[float]) -> FastRCNNOutputLayers:
        rest = {key: value for key, value in meta["predictor"].items() if key != "box_weights"}
        return FastRCNNOutputLayers(
            head.output_shape,
            box2box_transform=Box2BoxTransform(weights),
            num_classes=meta["num_classes"],
            **rest,
            **options,
        )

    def matcher(iou: float) -> Matcher:
        return Matcher([iou], [0, 1], allow_low_quality_matches=False)

    shared = dict(
        num_classes=meta["num_classes"],
        batch_size_per_image=meta["roi_batch_size_per_image"],
        positive_fraction=meta["roi_positive_fraction"],
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=ROIPooler(scales=[1 / 4, 1 / 8, 1 / 16, 1 / 32], pooler_type="ROIAlignV2", **meta["pooler"]),
    )
    if "cascade_ious" not in meta:
        head = box_head()
        return StandardROIHeads(
            **shared,
            proposal_matcher=matcher(meta["roi_iou"]),
            box_head=head,
            box_predictor=predictor(head, meta["predictor"]["box_weights"]),
        )
    heads = [box_head() for _ in meta["cascade_ious"]]
    return CascadeROIHeads(
        **shared,
        proposal_matchers=[matcher(iou) for iou in meta["cascade_ious"]],
        box_heads=heads,
        box_predictors=[predictor(*pair) for pair in zip(heads, meta["cascade_box_weights"])],
    )


def build(recorded: SimpleNamespace, **options) -> GeneralizedRCNN:
    meta = recorded.meta
    bottom_up = TinyBottomUp(meta["bottom_up"], meta["first_stride"])
    backbone = FPN(
        bottom_up,
        in_features=list(bottom_up.output_shape()),
        out_channels=meta["fpn_channels"],
        norm=meta["fpn_norm"],
        fuse_type=meta["fuse_type"],
        top_block=LastLevelMaxPool(),
    )
    model = GeneralizedRCNN(
        backbone=backbone,
        proposal_generator=build_rpn(meta),
        roi_heads=build_roi_heads(meta, options),
        pixel_mean=meta["pixel_mean"],
        pixel_std=meta["pixel_std"],
        input_format="BGR",
    )
    load_weights(model, recorded)
    return model


@pytest.mark.parametrize("training", [False, True], ids=["test", "train"])
def test_proposals(recorded, training):
    model = build(recorded).eval()
    with torch.no_grad():
        images = model.preprocess_image(batch(recorded))
        features = model.backbone(images.tensor)
        generator = model.proposal_generator.train(training)
        if training:
            truth = [item["instances"] for item in batch(recorded, step=0)]
            with EventStorage():
                proposals, _ = generator(images, features, truth)
        else:
            proposals, losses = generator(images, features)
            assert losses == {}
    for i, of_image in enumerate(proposals):
        prefix = f"proposals/{'train' if training else 'test'}/{i}"
        expected = recorded.arrays[f"{prefix}/proposal_boxes"]
        assert of_image.image_size == images.image_sizes[i]
        assert set(of_image.get_fields()) == {"proposal_boxes", "objectness_logits"}
        torch.testing.assert_close(of_image.proposal_boxes.tensor, expected, rtol=2e-4, atol=2e-3)
        torch.testing.assert_close(
            of_image.objectness_logits, recorded.arrays[f"{prefix}/objectness_logits"], rtol=0, atol=1e-4
        )


def test_the_first_stage_alone(recorded):
    whole = build(recorded).eval()
    model = ProposalNetwork(
        backbone=whole.backbone,
        proposal_generator=whole.proposal_generator,
        pixel_mean=recorded.meta["pixel_mean"],
        pixel_std=recorded.meta["pixel_std"],
    ).eval()
    with torch.no_grad():
        results = model(batch(recorded))
    for i, result in enumerate(results):
        height, width = recorded.meta["output_sizes"][i]
        ratio = torch.tensor([width, height] * 2) / torch.tensor(recorded.meta["image_sizes"][i][::-1] * 2)
        expected = recorded.arrays[f"proposals/test/{i}/proposal_boxes"] * ratio
        torch.testing.assert_close(result["proposals"].proposal_boxes.tensor, expected, rtol=2e-4, atol=2e-3)

    model.train()
    with EventStorage():
        losses = model(batch(recorded, step=0))
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(float(recorded.arrays[f"train/step0/{name}"]), rel=2e-5)


def test_detections(recorded):
    for config, options in recorded.meta["infer_configs"].items():
        check_detections(build(recorded, **options), recorded, config)


def test_losses_events_and_gradients(recorded):
    meta, arrays = recorded.meta, recorded.arrays
    model = build(recorded).train()
    for step in range(meta["num_steps"]):
        model.zero_grad()
        torch.manual_seed(meta["torch_seed_before_each_training_forward"])
        with EventStorage() as storage:
            losses = model(batch(recorded, step))
        produced = {key: loss.detach() for key, loss in losses.items()}
        produced |= {f"event/{key}": value for key, (value, _) in storage.latest().items()}
        check_scalars(produced, arrays, f"train/step{step}")
        sum(losses.values()).backward()
        if step == 0:
            check_gradients(model, arrays, "train")


def test_pooler(golden_d2: Path):
    meta, arrays = load(golden_d2 / "roi_pooler.npz")
    boxes = [Boxes(arrays[f"boxes/{i}"]) for i in range(2)]
    for case, spec in meta["cases"].items():
        pooler = ROIPooler(**spec["kwargs"])
        maps = [arrays[f"feature/{stride}"] for stride in spec["strides"]]
        close(pooler(maps, boxes), arrays[f"{case}/out"])
        assert (pooler.min_level, pooler.max_level) == (spec["min_level"], spec["max_level"])
        levels = assign_boxes_to_levels(
            boxes, pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
        )
        assert torch.equal(levels, arrays[f"{case}/levels"])
        close(pooler(maps, [Boxes([]), boxes[1]]), arrays[f"{case}/out_first_image_empty"])
        assert list(pooler(maps, [Boxes([]), Boxes([])]).shape) == spec["shape_without_boxes"]


def test_pooler_errors(golden_d2: Path):
    meta, _ = load(golden_d2 / "roi_pooler.npz")
    calls = {
        "scale 1/12": dict(scales=[1 / 12], pooler_type="ROIAlignV2"),
        "scales 1/4 and 1/16": dict(scales=[1 / 4, 1 / 16], pooler_type="ROIAlignV2"),
        "unknown pooler type": dict(scales=[1 / 4], pooler_type="ROIAlignV3"),
    }
    assert set(calls) == set(meta["errors"])
    for name, kwargs in calls.items():
        with pytest.raises(getattr(builtins, meta["errors"][name][0])):
            ROIPooler(output_size=7, sampling_ratio=0, **kwargs)
