"""Anchors, matching, box deltas and postprocessing, by brute force and by their properties."""

import math

import pytest
import torch
from detectron2.modeling import detector_postprocess
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import (
    Box2BoxTransform,
    Box2BoxTransformLinear,
    _dense_box_regression_loss,
)
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

some = settings(max_examples=40, deadline=None)


def test_anchors_have_the_area_ratio_and_place_asked_for():
    generator = DefaultAnchorGenerator(sizes=[[10, 20]], aspect_ratios=[[0.5, 2.0]], strides=[8], offset=0.5)
    (anchors,) = generator([torch.zeros(1, 1, 3, 5)])
    assert len(anchors) == 3 * 5 * 4
    width, height = (anchors.tensor[:, 2:] - anchors.tensor[:, :2]).unbind(1)
    torch.testing.assert_close(anchors.area(), torch.tensor([100.0, 100, 400, 400]).repeat(15))
    torch.testing.assert_close(height / width, torch.tensor([0.5, 2.0]).repeat(30))
    centers = anchors.get_centers().reshape(3, 5, 4, 2)
    for row in range(3):
        for column in range(5):
            expected = torch.tensor([column * 8 + 4.0, row * 8 + 4.0]).expand(4, 2)
            torch.testing.assert_close(centers[row, column], expected)


def test_anchors_leave_the_state_dict_empty_and_follow_the_device():
    generator = DefaultAnchorGenerator(sizes=[10], aspect_ratios=[1.0], strides=[8, 16])
    assert not generator.state_dict()
    (first, _) = generator.to("meta")([torch.zeros(1, 1, 2, 2)] * 2)
    assert first.device.type == "meta"


def test_anchors_take_the_lists_of_a_config():
    arguments = {"sizes": [[10], [20]], "aspect_ratios": [0.5, 1.0], "strides": [8, 16], "offset": 0.25}
    config = OmegaConf.create(arguments)
    maps = [torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)]
    for a, b in zip(DefaultAnchorGenerator(**config)(maps), DefaultAnchorGenerator(**arguments)(maps)):
        assert torch.equal(a.tensor, b.tensor)


def test_anchor_arguments_that_do_not_fit():
    with pytest.raises(AssertionError, match=r"sizes.*2.*3"):
        DefaultAnchorGenerator(sizes=[[1], [2]], aspect_ratios=[1.0], strides=[1, 2, 4])
    with pytest.raises(AssertionError, match=r"1\.0"):
        DefaultAnchorGenerator(sizes=[1], aspect_ratios=[1.0], strides=[1], offset=1.0)


# Detectron2 0.6 (main of 2026-06-06) gives anchors of the first maps alone.
@pytest.mark.subset
def test_anchors_for_another_number_of_maps():
    with pytest.raises(AssertionError, match="1 maps, got 2"):
        DefaultAnchorGenerator(sizes=[1], aspect_ratios=[1.0], strides=[1])([torch.zeros(1, 1, 1, 1)] * 2)


tenths = st.integers(0, 10).map(lambda i: i / 10)
matrices = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(tenths, min_size=n, max_size=n), min_size=1, max_size=4)
)


@some
@given(matrices, st.booleans())
def test_matcher_equals_the_loop(rows, allow_low_quality_matches):
    thresholds, interval_labels = [0.3, 0.7], [0, -1, 1]
    matcher = Matcher(thresholds, interval_labels, allow_low_quality_matches)
    matches, labels = matcher(torch.tensor(rows))
    for j, column in enumerate(zip(*rows)):
        best = max(column)
        label = interval_labels[sum(best >= t for t in thresholds)]
        if allow_low_quality_matches and any(row[j] == max(row) for row in rows):
            label = 1
        assert int(matches[j]) == column.index(best)
        assert int(labels[j]) == label


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 50
    return torch.cat((corner, corner + 2 + torch.rand(count, 2, generator=generator) * 30), dim=1)


def test_deltas_lead_from_source_to_target():
    source, target = random_boxes(20), random_boxes(20, seed=1)
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    deltas = transform.get_deltas(source, target)
    torch.testing.assert_close(transform.apply_deltas(deltas, source), target, rtol=1e-4, atol=1e-4)
    # Several boxes in a row are decoded each by itself.
    twice = transform.apply_deltas(torch.cat((deltas, 0 * deltas), dim=1), source)
    torch.testing.assert_close(twice, torch.cat((target, source), dim=1), rtol=1e-4, atol=1e-4)


def test_deltas_of_a_growing_box_are_clamped():
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0), scale_clamp=math.log(2))
    grown = transform.apply_deltas(torch.tensor([[0.0, 0.0, 50.0, 0.1]]), torch.tensor([[0.0, 0.0, 4.0, 4.0]]))
    assert float(grown[0, 2] - grown[0, 0]) == pytest.approx(8)
    assert float(grown[0, 3] - grown[0, 1]) == pytest.approx(4 * math.exp(0.1), rel=1e-5)


def test_no_boxes_and_half_precision():
    transform = Box2BoxTransform(OmegaConf.create([1.0, 1.0, 1.0, 1.0]))
    assert transform.apply_deltas(torch.zeros(0, 8), torch.zeros(0, 4)).shape == (0, 8)
    assert transform.apply_deltas(torch.zeros(2, 4).half(), random_boxes(2)).dtype == torch.float32


@pytest.mark.parametrize("normalize_by_size", [True, False])
def test_linear_deltas_lead_from_a_square_inside_to_the_target(normalize_by_size):
    target = random_boxes(20)
    center = (target[:, :2] + target[:, 2:]) / 2 + 0.4
    source = torch.cat((center - 4, center + 4), dim=1)
    transform = Box2BoxTransformLinear(normalize_by_size)
    deltas = transform.get_deltas(source, target)
    assert (deltas > 0).all()
    torch.testing.assert_close(transform.apply_deltas(deltas, source), target, rtol=1e-4, atol=1e-4)
    unit = 8 if normalize_by_size else 1
    torch.testing.assert_close(deltas[:, 0] * unit, center[:, 0] - target[:, 0])
    # A side on the other side of the centre is put onto it.
    boxes = transform.apply_deltas(torch.tensor([[-1.0, -1, 2, 2]]), torch.tensor([[0.0, 0, 8, 8]]))
    assert boxes.tolist() == [[4, 4, 4 + 2 * unit, 4 + 2 * unit]]
    assert transform.apply_deltas(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)
    with pytest.raises(AssertionError):
        transform.get_deltas(Boxes(source), target)


# Detectron2 0.6 (main of 2026-06-06) takes several boxes for each source only without normalisation.
@pytest.mark.subset
def test_linear_deltas_of_several_boxes_are_decoded_each_by_itself():
    source, transform = random_boxes(5), Box2BoxTransformLinear()
    first, second = torch.rand(5, 4), torch.rand(5, 4)
    expected = torch.cat((transform.apply_deltas(first, source), transform.apply_deltas(second, source)), dim=1)
    torch.testing.assert_close(transform.apply_deltas(torch.cat((first, second), dim=1), source), expected)


def iou_terms(a: list[float], b: list[float]) -> tuple[float, float, float, float]:
    """IoU of two boxes, area of the box around both, union, and centre distance over diagonal, squared."""
    inter = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    width, height = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    shift = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    return inter / union, width * height, union, shift / (width**2 + height**2)


@pytest.mark.parametrize("loss_type", ["smooth_l1", "giou", "diou"])
@pytest.mark.parametrize("transform", [Box2BoxTransform((1.0, 1.0, 1.0, 1.0)), Box2BoxTransformLinear()])
def test_dense_box_loss_equals_the_loop_over_foreground(loss_type, transform):
    anchors = [Boxes(random_boxes(5)), Boxes(random_boxes(3, seed=1))]
    deltas = [0.2 * torch.randn(2, 5, 4), 0.2 * torch.randn(2, 3, 4)]
    truth = [random_boxes(8, seed=2), random_boxes(8, seed=3)]
    foreground = torch.rand(2, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    beta = 0.1
    loss = _dense_box_regression_loss(anchors, transform, deltas, truth, foreground, loss_type, beta)

    expected = 0.0
    all_anchors, all_deltas = Boxes.cat(anchors).tensor, torch.cat(deltas, dim=1)
    for i, j in foreground.nonzero().tolist():
        anchor, delta, target = all_anchors[j : j + 1], all_deltas[i, j : j + 1], truth[i][j : j + 1]
        if loss_type == "smooth_l1":
            for difference in (delta - transform.get_deltas(anchor, target)).abs().flatten().tolist():
                quadratic = difference < beta
                expected += difference**2 / 2 / beta if quadratic else difference - beta / 2
            continue
        box = transform.apply_deltas(delta, anchor)[0].tolist()
        iou, around, union, shift = iou_terms(box, target[0].tolist())
        expected += 1 - iou + ((around - union) / around if loss_type == "giou" else shift)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


# Detectron2 0.6 (main of 2026-06-06) speaks of bad boxes, or trains on.
@pytest.mark.subset
@pytest.mark.parametrize("loss_type", ["giou", "diou", "ciou"])
def test_a_loss_on_boxes_that_are_not_finite_says_that_training_has_diverged(loss_type):
    anchors, truth = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), [torch.tensor([[0.0, 0.0, 9.0, 9.0]])]
    deltas, foreground = torch.full((1, 1, 4), math.nan), torch.ones(1, 1, dtype=torch.bool)
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    with pytest.raises(FloatingPointError, match="NaN or infinite: training has diverged"):
        _dense_box_regression_loss([anchors], transform, [deltas], truth, foreground, loss_type)


@pytest.mark.parametrize("loss_type", ["smooth_l1", "giou", "diou", "ciou"])
def test_dense_box_loss_without_foreground_is_zero_and_connected(loss_type):
    deltas = torch.randn(2, 5, 4, requires_grad=True)
    loss = _dense_box_regression_loss(
        [Boxes(random_boxes(5))],
        Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        [deltas],
        [torch.zeros(5, 4)] * 2,
        torch.zeros(2, 5, dtype=torch.bool),
        loss_type,
    )
    loss.backward()
    assert loss.item() == 0 and torch.equal(deltas.grad, torch.zeros_like(deltas))


def test_unknown_box_loss():
    with pytest.raises(ValueError, match="'l2'"):
        _dense_box_regression_loss(
            [torch.zeros(1, 4)],
            Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
            [torch.zeros(1, 1, 4)],
            [torch.zeros(1, 4)],
            torch.zeros(1, 1, dtype=torch.bool),
            "l2",
        )


# Detectron2 0.6 (main of 2026-06-06) rescales the boxes that it is given.
@pytest.mark.subset
def test_postprocess_leaves_its_input_alone():
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 5, 9]])
    given_instances = Instances((20, 20), pred_boxes=Boxes(boxes.clone()), scores=torch.tensor([0.9, 0.8]))
    result = detector_postprocess(given_instances, 40, 10)
    assert torch.equal(given_instances.pred_boxes.tensor, boxes) and given_instances.image_size == (20, 20)
    assert result.pred_boxes.tensor.tolist() == [[0, 0, 5, 20]]
    assert result.scores.tolist() == pytest.approx([0.9])


@pytest.mark.subset
def test_postprocess_without_boxes_or_with_masks():
    with pytest.raises(AssertionError, match="pred_boxes"):
        detector_postprocess(Instances((20, 20), scores=torch.ones(1)), 20, 20)
    with pytest.raises(NotImplementedError, match=r"pred_masks.*installed Detectron2"):
        detector_postprocess(Instances((20, 20), pred_masks=torch.ones(1, 20, 20)), 20, 20)
