"""The first stage: labels, losses, and the choice of proposals, against loops."""

import math

import pytest
import torch
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.proposal_generator.proposal_utils import (
    add_ground_truth_to_proposals,
    find_top_rpn_proposals,
)
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from helpers.two_stage_models import build_rpn
from torch.nn import functional as F

SIZE = (60, 80)


def some_boxes(*shape: int) -> torch.Tensor:
    corner = torch.rand(*shape, 2) * 60 - 10
    return torch.cat((corner, corner + torch.rand(*shape, 2) * 40), dim=-1)


def brute_force(levels, logits, image, nms_thresh, pre, post, min_size):
    """Proposals of one image as (logit, box) by falling logit."""
    kept = []
    for boxes, scores in zip(levels, logits):
        order = sorted(range(scores.shape[1]), key=lambda i: -scores[image, i].item())[:pre]
        survivors = []
        for i in order:
            box = Boxes(boxes[image, i][None].clone())
            box.clip(SIZE)
            width, height = (box.tensor[0, 2:] - box.tensor[0, :2]).tolist()
            if width <= min_size or height <= min_size:
                continue
            if all(pairwise_iou(box, other).item() <= nms_thresh for _, other in survivors):
                survivors.append((scores[image, i].item(), box))
        kept += survivors
    kept.sort(key=lambda pair: -pair[0])
    return kept[:post]


@pytest.mark.parametrize(("pre", "post", "min_size"), [(12, 9, 0.0), (1000, 1000, 8.0), (math.inf, 15, 0.0)])
def test_the_best_proposals_equal_the_loop(pre, post, min_size):
    torch.manual_seed(0)
    levels = [some_boxes(2, 30), some_boxes(2, 10)]
    logits = [torch.randn(2, 30), torch.randn(2, 10)]
    results = find_top_rpn_proposals(levels, logits, [SIZE, SIZE], 0.3, pre, post, min_size, training=True)
    for image, found in enumerate(results):
        expected = brute_force(levels, logits, image, 0.3, int(min(pre, 30)), post, min_size)
        assert 0 < len(found) == len(expected)
        torch.testing.assert_close(found.objectness_logits, torch.tensor([logit for logit, _ in expected]))
        torch.testing.assert_close(found.proposal_boxes.tensor, torch.cat([box.tensor for _, box in expected]))


def test_proposals_that_are_not_finite():
    boxes, logits = some_boxes(2, 6), torch.randn(2, 6)
    boxes[0, 1, 2] = math.nan
    logits[1, 3] = math.inf
    arguments = ([boxes], [logits], [SIZE, SIZE], 1.0, 10, 10, -1.0)
    with pytest.raises(FloatingPointError, match="diverged"):
        find_top_rpn_proposals(*arguments, training=True)
    results = find_top_rpn_proposals(*arguments, training=False)
    assert [len(found) for found in results] == [5, 5]
    assert all(torch.isfinite(found.proposal_boxes.tensor).all() for found in results)


def test_ground_truth_joins_the_proposals():
    proposals = Instances(SIZE, proposal_boxes=Boxes(some_boxes(3)), objectness_logits=torch.randn(3))
    truth = Instances(SIZE, gt_boxes=Boxes([[1, 2, 3, 4]]), gt_classes=torch.tensor([7]))
    nothing = Instances(SIZE, gt_boxes=Boxes([]), gt_classes=torch.zeros(0, dtype=torch.int64))
    for first in (truth, truth.gt_boxes):
        joined, same = add_ground_truth_to_proposals([first, nothing], [proposals, proposals])
        assert set(joined.get_fields()) == {"proposal_boxes", "objectness_logits"}
        assert joined.proposal_boxes.tensor[-1].tolist() == [1, 2, 3, 4] and len(joined) == 4
        assert joined.objectness_logits[-1].sigmoid().item() == pytest.approx(1)
        assert torch.equal(same.proposal_boxes.tensor, proposals.proposal_boxes.tensor)
    extra = Instances(SIZE, **proposals.get_fields(), note=torch.zeros(3))
    with pytest.raises(AssertionError, match="note"):
        add_ground_truth_to_proposals([truth], [extra])


def anchors_and_truth():
    anchors = [
        Boxes([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [40, 40, 50, 50]]),
        Boxes([[-5, 0, 5, 10], [70, 50, 80, 60]]),
    ]
    truth = Instances(SIZE, gt_boxes=Boxes([[0, 0, 10, 10]]), gt_classes=torch.tensor([2]))
    nothing = Instances(SIZE, gt_boxes=Boxes([]), gt_classes=torch.zeros(0, dtype=torch.int64))
    return anchors, [truth, nothing]


def test_anchors_are_labelled_by_overlap():
    anchors, truth = anchors_and_truth()
    labels, boxes = build_rpn().label_and_sample_anchors(anchors, truth)
    # IoU of 1, 0.9, 0.5 (between the thresholds), 0, 1/3 (between) and 0.
    assert labels[0].tolist() == [1, 1, -1, 0, -1, 0]
    assert labels[1].tolist() == [0] * 6
    assert boxes[0][:2].tolist() == [[0, 0, 10, 10]] * 2 and boxes[1].shape == (6, 4)


def test_anchors_past_the_border_can_be_left_out():
    anchors, truth = anchors_and_truth()
    strict, _ = build_rpn(anchor_boundary_thresh=0).label_and_sample_anchors(anchors, truth)
    assert strict[1].tolist() == [0, 0, 0, 0, -1, -1]
    loose, _ = build_rpn(anchor_boundary_thresh=6).label_and_sample_anchors(anchors, truth)
    assert loose[1].tolist() == [0] * 6


def test_a_sample_of_anchors_has_the_size_asked_for():
    torch.manual_seed(0)
    rpn = build_rpn(batch_size_per_image=12, positive_fraction=0.25)
    truth = Instances(SIZE, gt_boxes=Boxes([[10, 10, 40, 40], [50, 20, 70, 40]]))
    shifts = torch.rand(200, 1).repeat(1, 4) * 3
    anchors = [Boxes(torch.cat((truth.gt_boxes.tensor[0] + shifts, some_boxes(200))))]
    (labels,), _ = rpn.label_and_sample_anchors(anchors, [truth])
    assert (labels == 1).sum() == 3 and (labels == 0).sum() == 9
    draws = [rpn.label_and_sample_anchors(anchors, [truth])[0][0] for _ in range(3)]
    assert any(not torch.equal(labels, other) for other in draws)


@pytest.mark.parametrize("weights", [2.0, {"loss_rpn_loc": 2.0}])
def test_losses_equal_the_loop(weights):
    torch.manual_seed(0)
    rpn = build_rpn(loss_weight=weights, smooth_l1_beta=0.5)
    anchors, truth = anchors_and_truth()
    labels, boxes = rpn.label_and_sample_anchors(anchors, truth)
    logits = [torch.randn(2, 4), torch.randn(2, 2)]
    deltas = [torch.randn(2, 4, 4), torch.randn(2, 2, 4)]
    with EventStorage() as storage:
        losses = rpn.losses(anchors, logits, labels, deltas, boxes)
    assert storage.latest()["rpn/num_pos_anchors"][0] == 1 and storage.latest()["rpn/num_neg_anchors"][0] == 4

    all_anchors, all_logits, all_deltas = Boxes.cat(anchors).tensor, torch.cat(logits, 1), torch.cat(deltas, 1)
    cls = loc = torch.zeros(())
    for image in range(2):
        for r, label in enumerate(labels[image].tolist()):
            if label >= 0:
                cls = cls + F.binary_cross_entropy_with_logits(all_logits[image, r], torch.tensor(float(label)))
            if label == 1:
                target = rpn.box2box_transform.get_deltas(all_anchors[r][None], boxes[image][r][None])[0]
                loc = loc + F.smooth_l1_loss(all_deltas[image, r], target, beta=0.5, reduction="sum")
    normalizer = 32 * 2
    cls_weight = 2.0 if isinstance(weights, float) else 1.0
    torch.testing.assert_close(losses["loss_rpn_cls"], cls_weight * cls / normalizer)
    torch.testing.assert_close(losses["loss_rpn_loc"], 2.0 * loc / normalizer)


def test_proposals_carry_no_gradient_and_keep_to_their_limits():
    rpn = build_rpn().train()
    features = {
        name: torch.randn(2, 8, side, side, requires_grad=True) for name, side in (("p3", 8), ("p4", 4), ("p5", 2))
    }
    images = type("Images", (), {"image_sizes": [(64, 64), (50, 40)]})
    truth = Instances((64, 64), gt_boxes=Boxes([[4, 4, 30, 30]]))
    with EventStorage():
        proposals, losses = rpn(images, features, [truth, truth])
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc"}
    for found, (height, width) in zip(proposals, images.image_sizes):
        boxes = found.proposal_boxes.tensor
        assert not boxes.requires_grad and 0 < len(boxes) <= 40
        assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
    found, losses = rpn.eval()(images, features)
    assert losses == {} and all(0 < len(of_image) <= 20 for of_image in found)


def test_names_of_the_head_follow_the_number_of_convolutions():
    keys = set(StandardRPNHead(in_channels=8, num_anchors=3).state_dict())
    last = {f"{layer}.{part}" for layer in ("objectness_logits", "anchor_deltas") for part in ("weight", "bias")}
    assert keys - last == {"conv.weight", "conv.bias"}
    head = StandardRPNHead(in_channels=8, num_anchors=3, box_dim=5, conv_dims=(16, -1))
    keys = set(head.state_dict())
    assert keys - last == {f"conv.conv{k}.{part}" for k in (0, 1) for part in ("weight", "bias")}
    logits, deltas = head([torch.randn(2, 8, 4, 5)])
    assert logits[0].shape == (2, 3, 4, 5) and deltas[0].shape == (2, 15, 4, 5)
    assert head.conv.conv1.weight.shape == (16, 16, 3, 3)
