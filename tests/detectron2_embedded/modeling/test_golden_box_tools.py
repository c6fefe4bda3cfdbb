"""Anchors, matching, box deltas and postprocessing, against numbers recorded from Detectron2."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import detector_postprocess
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformLinear
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances
from helpers.golden_files import close, load

pytestmark = pytest.mark.golden


def test_anchors(golden_d2: Path):
    meta, arrays = load(golden_d2 / "anchors.npz")
    for case, spec in meta["cases"].items():
        generator = DefaultAnchorGenerator(**spec["kwargs"])
        assert generator.num_anchors == generator.num_cell_anchors == spec["num_anchors"]
        assert generator.box_dim == spec["box_dim"]
        anchors = generator([torch.zeros(1, 1, *grid) for grid in spec["grid_sizes"]])
        for level, (cell, boxes) in enumerate(zip(generator.cell_anchors, anchors, strict=True)):
            close(cell, arrays[f"{case}/cell_anchors/{level}"])
            close(boxes.tensor, arrays[f"{case}/anchors/{level}"])


def test_box_deltas(golden_d2: Path):
    meta, arrays = load(golden_d2 / "box2box.npz")
    src, dst = arrays["src"], arrays["dst"]
    for case, arguments in meta["cases"].items():
        transform = Box2BoxTransform(**arguments)
        deltas = transform.get_deltas(src, dst)
        close(deltas, arrays[f"{case}/get_deltas"])
        close(transform.apply_deltas(deltas, src), arrays[f"{case}/roundtrip"])
        close(transform.apply_deltas(arrays["deltas1"], src), arrays[f"{case}/apply1"])
        close(transform.apply_deltas(arrays["deltas3"], src), arrays[f"{case}/apply3"])
    assert Box2BoxTransform((1, 1, 1, 1)).scale_clamp == pytest.approx(meta["default_scale_clamp"], rel=1e-12)

    assert meta["errors"]["get_deltas with a source box of width 0"][0] == "AssertionError"
    flat = src.clone()
    flat[0, 2] = flat[0, 0]
    with pytest.raises(AssertionError):
        Box2BoxTransform((1, 1, 1, 1)).get_deltas(flat, dst)


def test_linear_box_deltas(golden_d2: Path):
    meta, arrays = load(golden_d2 / "box2box_linear.npz")
    src, dst = arrays["src"], arrays["dst"]
    for case, normalize_by_size in meta["cases"].items():
        transform = Box2BoxTransformLinear(normalize_by_size)
        close(transform.get_deltas(src, dst), arrays[f"{case}/get_deltas"])
        close(transform.apply_deltas(arrays["deltas"], src), arrays[f"{case}/apply"])
        if not normalize_by_size:
            close(transform.apply_deltas(arrays["deltas3"], src), arrays[f"{case}/apply3"])


def test_matcher(golden_d2: Path):
    meta, arrays = load(golden_d2 / "matcher.npz")
    for config, arguments in meta["configs"].items():
        matcher = Matcher(**arguments)
        for matrix in meta["matrices"]:
            matches, labels = matcher(arrays[f"iou/{matrix}"])
            # torch.equal does not look at the dtype.
            expected = arrays[f"{config}/{matrix}/matches"], arrays[f"{config}/{matrix}/labels"]
            assert (matches.dtype, labels.dtype) == (expected[0].dtype, expected[1].dtype)
            assert torch.equal(matches, expected[0]) and torch.equal(labels, expected[1]), (config, matrix)


def test_matcher_errors(golden_d2: Path):
    meta, _ = load(golden_d2 / "matcher.npz")
    calls = {
        "label 2": ([0.4, 0.5], [0, -1, 2]),
        "thresholds [0.0, 0.4]": ([0.0, 0.4], [0, -1, 1]),
        "thresholds [0.5, 0.4]": ([0.5, 0.4], [0, -1, 1]),
        "two labels for two thresholds": ([0.4, 0.5], [0, 1]),
    }
    assert set(calls) == set(meta["errors"])
    for name, (thresholds, labels) in calls.items():
        assert meta["errors"][name][0] == "AssertionError"
        with pytest.raises(AssertionError):
            Matcher(thresholds, labels)


def test_postprocess(golden_d2: Path):
    meta, arrays = load(golden_d2 / "postprocess.npz")
    boxes, scores = arrays["boxes"], arrays["scores"]
    for i, (height, width) in enumerate(meta["output_sizes"]):
        detections = Instances(
            tuple(meta["image_size"]), pred_boxes=Boxes(boxes.clone()), scores=scores, pred_classes=arrays["classes"]
        )
        proposals = Instances(tuple(meta["image_size"]), proposal_boxes=Boxes(boxes.clone()), objectness_logits=scores)
        for kind, instances in (("out", detections), ("proposals", proposals)):
            result = detector_postprocess(instances, height, width)
            assert result.image_size == (height, width)
            for name, value in result.get_fields().items():
                close(getattr(value, "tensor", value), arrays[f"{kind}/{i}/{name}"])
