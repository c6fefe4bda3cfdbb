"""Convolution with norm and activation, and small functions."""

import pytest
import torch
from detectron2.layers import (
    Conv2d,
    batched_nms,
    cat,
    cross_entropy,
    move_device_like,
    nonzero_tuple,
    shapes_to_tensor,
)
from detectron2.structures import Boxes, pairwise_iou
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F


def test_conv_runs_norm_then_activation():
    conv = Conv2d(3, 4, 3, padding=1, bias=False, norm=nn.BatchNorm2d(4), activation=F.relu)
    x = torch.randn(2, 3, 5, 5)
    expected = F.relu(F.batch_norm(F.conv2d(x, conv.weight, padding=1), None, None, training=True))
    torch.testing.assert_close(conv(x), expected)
    plain = Conv2d(3, 4, 3)
    torch.testing.assert_close(plain(x), F.conv2d(x, plain.weight, plain.bias))
    assert list(conv.state_dict())[:2] == ["weight", "norm.weight"]


def test_cross_entropy_of_no_targets_is_zero_and_connected():
    logits = torch.randn(0, 5, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(0, dtype=torch.long))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    many, targets = torch.randn(4, 5), torch.tensor([0, 4, 2, 1])
    for reduction in ("mean", "sum", "none"):
        expected = F.cross_entropy(many, targets, reduction=reduction)
        torch.testing.assert_close(cross_entropy(many, targets, reduction=reduction), expected)


def test_small_functions():
    one = torch.randn(2, 2)
    assert cat([one]) is one
    assert cat([one, one], dim=1).shape == (2, 4)
    assert [x.tolist() for x in nonzero_tuple(torch.tensor(3))] == [[0]]
    assert [x.tolist() for x in nonzero_tuple(torch.tensor([[0, 1], [1, 0]]))] == [[0, 1], [1, 0]]
    assert move_device_like(one, torch.empty(0, device="meta")).device.type == "meta"
    assert shapes_to_tensor([3, 4]).tolist() == [3, 4]


corner = st.integers(0, 12)
objects = st.lists(st.tuples(corner, corner, st.integers(1, 8), st.integers(1, 8), st.integers(0, 2)), max_size=12)


@settings(max_examples=50, deadline=None)
@given(objects, st.sampled_from([0.31, 0.52, 0.73]))
def test_nms_equals_the_greedy_loop(drawn, threshold):
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _ in drawn], dtype=torch.float32).reshape(-1, 4)
    classes = torch.tensor([c for *_, c in drawn], dtype=torch.int64)
    scores = torch.linspace(1, 0.5, len(drawn))[torch.randperm(len(drawn))]
    iou = pairwise_iou(Boxes(boxes), Boxes(boxes))
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if not any(classes[i] == classes[k] and iou[i, k] > threshold for k in kept):
            kept.append(i)
    assert batched_nms(boxes, scores, classes, threshold).tolist() == kept


# Torchvision's kernel, which Detectron2 0.6 (main of 2026-06-06) calls as it is, refuses scores of another dtype.
@pytest.mark.subset
def test_nms_takes_half_precision_scores():
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 5]])
    kept = batched_nms(boxes, torch.tensor([0.2, 0.9], dtype=torch.float16), torch.zeros(2).long(), 0.5)
    assert kept.tolist() == [1]


@pytest.mark.subset
def test_missing_layers_say_where_to_get_them():
    with pytest.raises(ImportError, match=r"DeformConv.*installed Detectron2"):
        from detectron2.layers import DeformConv  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name"):
        from detectron2.layers import NoSuchLayer  # noqa: F401
