"""The best IoU of boxes with the anchors of configs, against all anchors of Detectron2's generator."""

import json

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou
from omegaconf import OmegaConf

from loradet.config.anchors import anchor_rule
from loradet.datasets.checks import Split, check_splits
from loradet.datasets.checks.anchors import AnchorRule, Resize, check_anchors
from loradet.errors import UserError

STRIDES = [8, 16, 32]


def _config(resize: dict | None = None, inner: bool = False, labels=(0, -1, 1), **generator) -> OmegaConf:
    part = OmegaConf.create({}, flags={"allow_objects": True})
    part.anchor_generator = L(DefaultAnchorGenerator)(
        **{"sizes": [[16, 24], [32, 48], [64, 96]], "aspect_ratios": [0.5, 1.0, 2.0], "strides": STRIDES} | generator
    )
    part.anchor_matcher = L(Matcher)(thresholds=[0.4, 0.5], labels=list(labels), allow_low_quality_matches=True)
    augmentations = [] if resize is None else [resize]
    return OmegaConf.create(
        {
            "model": {"proposal_generator": part} if inner else part,
            "dataloader": {"train": {"mapper": {"augmentations": augmentations}}},
        },
        flags={"allow_objects": True},
    )


def _short_edge(length, max_size=1000) -> dict:
    target = "detectron2.data.transforms.ResizeShortestEdge"
    return {"_target_": target, "short_edge_length": length, "max_size": max_size}


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_best_iou_is_that_of_all_anchors(offset):
    cfg = _config(offset=offset)
    rng = np.random.default_rng(0)
    width, height = 150, 101
    corners = rng.uniform(0, [width, height], (300, 2))
    sides = np.minimum(np.exp(rng.uniform(0, 5, (300, 2))), [width, height] - corners)
    xywh = np.hstack([corners, sides])
    found = anchor_rule(cfg).best_iou(xywh, np.tile([width, height], (300, 1)))
    maps = [torch.zeros(1, 1, -(-height // stride), -(-width // stride)) for stride in STRIDES]
    anchors = Boxes.cat(instantiate(cfg.model.anchor_generator)(maps))
    xyxy = torch.tensor(np.hstack([corners, corners + sides]), dtype=torch.float32)
    np.testing.assert_allclose(found, pairwise_iou(anchors, Boxes(xyxy)).amax(0).numpy(), atol=1e-4)


def test_a_rule_of_a_retinanet_and_of_a_proposal_network():
    for inner in (False, True):
        rule = anchor_rule(_config(inner=inner))
        assert [level.stride for level in rule.levels] == [(8, 8), (16, 16), (32, 32)]
        assert [len(level.cell) for level in rule.levels] == [6, 6, 6]
        assert (rule.threshold, rule.low_quality, rule.resize) == (0.5, True, Resize())
    assert anchor_rule(_config(labels=(0, 1, 1))).threshold == 0.4
    with pytest.raises(UserError, match="Expected one that is 1"):
        anchor_rule(_config(labels=(0, -1, 0)))
    cfg = _config()
    cfg.model = {"num_classes": 3}
    assert anchor_rule(cfg) is None
    with pytest.raises(UserError, match="no model and dataloader"):
        anchor_rule(OmegaConf.create({"train": {}}))


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        (_short_edge(320, 512), Resize((320,), 512.0)),
        (_short_edge([480, 512, 544, 576, 608]), Resize((480, 544, 608), 1000.0)),
        ({"_target_": "detectron2.data.transforms.Resize", "shape": [60, 90]}, Resize(shape=(60, 90))),
        ({"_target_": "detectron2.data.transforms.Resize", "shape": 64}, Resize(shape=(64, 64))),
        ({"_target_": "detectron2.data.transforms.RandomFlip"}, Resize()),
    ],
)
def test_the_resize_of_a_config(resize, expected):
    assert anchor_rule(_config(resize)).resize == expected


def test_factors_are_those_of_detectron2():
    import detectron2.data.transforms as T

    sizes = np.array([[640.0, 480.0], [300.0, 1200.0], [100.0, 100.0]])
    ((_, *_),) = (Resize((320,), 512.0).factors(sizes),)
    for size, factor in zip(sizes, Resize((320,), 512.0).factors(sizes)[0]):
        height, width = T.ResizeShortestEdge.get_output_shape(int(size[1]), int(size[0]), 320, 512)
        np.testing.assert_allclose(size * factor, [width, height], atol=0.51)
    np.testing.assert_allclose(Resize(shape=(60, 90)).factors(sizes)[0] * sizes, [[90, 60]] * 3)


def test_report_of_boxes_that_no_anchor_reaches(tmp_path):
    boxes = {1: [20, 20, 32, 32], 2: [20, 60, 150, 4], 3: [100, 10, 6, 6], 4: [5, 5, 3, 190]}
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 200, "height": 200}],
        "categories": [{"id": 1, "name": "ship"}],
        "annotations": [
            {"id": number, "image_id": 7, "category_id": 1, "bbox": box, "iscrowd": int(number == 4)}
            for number, box in boxes.items()
        ],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    of_split = check_splits([Split("train", tmp_path / "train.json")]).contents["train"]
    report = check_anchors(of_split, anchor_rule(_config()))
    assert [(one.kind, one.image_id, one.file_name) for one in report.unmatched] == [
        ("box without anchor", 7, "a.png")
    ] * 2  # the crowd region is not counted
    assert "annotation 2: 150 x 4 pixels once resized" in str(report.unmatched[0])
    assert [(name.split()[0], count, under) for name, count, under, _ in report.rows()] == [
        ("tiny", 1, 1),
        ("small", 1, 1),
        ("medium", 1, 0),
        ("large", 0, 0),
        ("all", 3, 2),
    ]
    assert "2 of 3 boxes reach no anchor by IoU 0.5; they are learned from their best anchor alone" in report.text()
    assert "annotation 3" not in report.text(limit=1) and "and 1 more" in report.text(limit=1)
    # Enlarged the small one is reached.
    larger = AnchorRule(report.rule.levels, 0.5, True, Resize((800,)))
    assert "annotation 3" not in check_anchors(of_split, larger).text()
