"""FCOS beyond the recorded numbers: images without objects, dtypes, which anchor learns what."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FCOS, FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransformLinear
from detectron2.modeling.meta_arch import DenseDetector
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from helpers.golden_detector import TinyBottomUp

CLASSES = 3
STRIDES = [8, 16, 32]


def build(norm: str = "", **options) -> FCOS:
    torch.manual_seed(0)
    backbone = FPN(TinyBottomUp([8], 8), ["res3"], 8, top_block=LastLevelP6P7(8, 8, in_feature="p3"))
    head = FCOSHead(input_shape=list(backbone.output_shape().values()), num_classes=CLASSES, conv_dims=[32], norm=norm)
    settings = dict(num_classes=CLASSES, pixel_mean=[100.0, 110.0, 120.0], pixel_std=[50.0, 50.0, 50.0])
    return FCOS(backbone=backbone, head=head, **{**settings, **options})


def item(boxes: list[list[float]], size: tuple[int, int] = (64, 64), seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    truth = Instances(size, gt_boxes=Boxes(torch.tensor(boxes)), gt_classes=torch.arange(len(boxes)) % CLASSES)
    return {"image": image, "instances": truth}


def losses_of(model: FCOS, items: list[dict]) -> dict[str, torch.Tensor]:
    with EventStorage():
        return model.train()(items)


@pytest.mark.parametrize("boxes", [[], [[4.0, 4, 50, 50]]], ids=["no boxes", "one box"])
def test_every_parameter_gets_a_gradient(boxes):
    model = build("GN")
    losses = losses_of(model, [item([]), item(boxes, size=(40, 64))])
    assert set(losses) == {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert (losses["loss_fcos_loc"].item() == 0) == (losses["loss_fcos_ctr"].item() == 0) == (not boxes)
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_its_anchors_are_squares_of_the_strides_finest_first():
    model = build()
    assert isinstance(model, DenseDetector)
    assert model.head_in_features == ["p3", "p4", "p5"]
    anchors = model.anchor_generator([torch.zeros(1, 1, 8 // 2**i, 8 // 2**i) for i in range(3)])
    for stride, level in zip(STRIDES, anchors):
        assert torch.equal(level.tensor[0], torch.tensor([0.0, 0, stride, stride]))
        assert len(level) == (64 // stride) ** 2
    assert isinstance(model.box2box_transform, Box2BoxTransformLinear)


def positives(model: FCOS, boxes: list[list[float]]) -> dict[tuple[int, float, float], int]:
    """The box (by its place in the list) that the anchor at (level, x, y) learns."""
    anchors = model.anchor_generator([torch.zeros(1, 1, 64 // stride, 64 // stride) for stride in STRIDES])
    truth = item(boxes)["instances"]
    truth.gt_classes = torch.arange(len(boxes))
    model.num_classes = 99
    (labels,), (matched,) = model.label_anchors(anchors, [truth])
    found, places = {}, [(i, *c) for i, level in enumerate(anchors) for c in level.get_centers().tolist()]
    for place, label, box in zip(places, labels.tolist(), matched):
        if label != 99:
            found[place] = label
            assert torch.equal(box, truth.gt_boxes.tensor[label])
    return found


def test_anchors_near_the_centre_learn_a_box_on_the_level_of_its_size():
    model = build(center_sampling_radius=1.0)
    # The finest level has its positions at 4, 12, 20, 28 …; less than 8 pixels from the centre at 30 are two of them.
    assert set(positives(model, [[10.0, 10, 50, 50]])) == {(0, x, y) for x in (28, 36) for y in (28, 36)}
    # A side 64 to 128 pixels away is for the second level: 8, 24, 40 …, less than 16 pixels from the centre (32, 8).
    assert set(positives(model, [[-50.0, -72, 114, 88]])) == {(1, 24, 8), (1, 40, 8)}
    # The last level takes whatever is larger.
    assert {level for level, *_ in positives(model, [[-900.0, -900, 964, 964]])} == {2}


def test_the_smaller_of_two_boxes_wins():
    model = build(center_sampling_radius=9.0)
    found = positives(model, [[0.0, 0, 60, 60], [16, 16, 40, 40]])
    assert found[0, 28, 28] == 1 and found[0, 4, 4] == 0 and found[0, 52, 52] == 0
    assert sum(label == 1 for label in found.values()) == 3 * 3


def test_centerness_is_one_at_the_centre_and_falls_to_the_sides():
    model = build()
    anchors = [Boxes(torch.tensor([[28.0, 28, 36, 36], [8, 28, 16, 36], [0, 28, 8, 36]]))]
    boxes = torch.tensor([[0.0, 0, 64, 64]]).expand(3, 4)
    targets = model.compute_ctrness_targets(anchors, [boxes, boxes])
    assert targets.shape == (2, 3)
    expected = [1.0, (12 / 52) ** 0.5, (4 / 60) ** 0.5]
    assert targets[1].tolist() == pytest.approx(expected, rel=1e-5)


def test_detections_do_not_depend_on_the_rest_of_the_batch():
    model = build(test_score_thresh=0.0, max_detections_per_image=20).eval()
    torch.nn.init.ones_(model.head.bbox_pred.bias)
    first, second = item([], seed=1), item([], seed=2)
    with torch.no_grad():
        together = model([first, second])
        alone = [model([first])[0], model([second])[0]]
    for a, b in zip(together, alone):
        assert len(a["instances"]) == 20
        assert torch.equal(a["instances"].pred_classes, b["instances"].pred_classes)
        torch.testing.assert_close(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)


def test_overfits_one_image():
    model = build("GN", test_score_thresh=0.5)
    target = item([[6.0, 6, 30, 26], [30, 30, 60, 62]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with EventStorage():
        model.train()([target])
    model.loss_normalizer = 10.0
    for _ in range(120):
        loss = sum(losses_of(model, [target]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        (result,) = model.eval()([target])
    found, truth = result["instances"][:2], target["instances"]
    order = found.pred_classes.argsort()
    assert found.pred_classes[order].tolist() == truth.gt_classes.tolist()
    torch.testing.assert_close(found.pred_boxes.tensor[order], truth.gt_boxes.tensor, rtol=0, atol=3.0)


def test_the_head_starts_at_its_prior_and_has_one_anchor():
    head = FCOSHead(input_shape=[ShapeSpec(channels=8)] * 2, num_classes=3, conv_dims=[8], prior_prob=0.2)
    logits, deltas, centerness = head([torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 2, 2)])
    assert [tuple(x.shape) for x in (logits[0], deltas[0], centerness[0])] == [(1, n, 4, 4) for n in (3, 4, 1)]
    assert all(p == pytest.approx(0.2, rel=1e-5) for x in logits for p in x.sigmoid().flatten().tolist())
    assert all((x == 0).all() for x in [*deltas, *centerness])
    with pytest.raises(AssertionError):
        head([torch.zeros(1, 8, 4, 4)])
    with pytest.raises(TypeError, match="num_anchors"):
        FCOSHead(input_shape=[ShapeSpec(channels=8)], num_classes=3, conv_dims=[8], num_anchors=2)


def test_it_needs_the_maps_of_all_levels():
    model = build()
    with pytest.raises(AssertionError):
        model.head([torch.zeros(1, 8, 4, 4)])
    with pytest.raises(KeyError, match="p9"):
        build(head_in_features=["p3", "p9"])


# Detectron2 0.6 (main of 2026-06-06) takes the loss of the centerness in half precision under autocast, and decodes
# boxes in it, which is off by whole pixels: here both are float32, as RetinaNet's are in both.
@pytest.mark.subset
def test_mixed_precision_keeps_losses_and_boxes_in_float32():
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model, [item([[4.0, 4, 50, 50]])])
        (result,) = model.eval()([item([])])
    assert all(torch.isfinite(loss) and loss.dtype == torch.float32 for loss in losses.values())
    assert result["instances"].pred_boxes.tensor.dtype == torch.float32
    half = Box2BoxTransformLinear().apply_deltas(torch.ones(1, 4).half(), torch.tensor([[1000.0, 1000, 1001, 1001]]))
    assert half.tolist() == [[999.5, 999.5, 1001.5, 1001.5]]


@pytest.mark.subset
def test_missing_truth_is_said():
    with pytest.raises(ValueError, match=r"instances.*image.*DatasetMapper"):
        build().train()([{"image": torch.zeros(3, 32, 32)}])
