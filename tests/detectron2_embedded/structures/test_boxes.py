"""Boxes and the overlap between them, by brute force and by their properties."""

import pytest
import torch
from detectron2.structures import Boxes, BoxMode, pairwise_ioa, pairwise_iou, pairwise_point_box_distance
from detectron2.structures.boxes import matched_pairwise_iou
from hypothesis import given, settings
from hypothesis import strategies as st

coordinate = st.integers(0, 40)
box = st.tuples(coordinate, coordinate, st.integers(0, 20), st.integers(0, 20)).map(
    lambda t: [t[0], t[1], t[0] + t[2], t[1] + t[3]]
)
boxes = st.lists(box, max_size=6)
some = settings(max_examples=40, deadline=None)


def cells(corners: list[int]) -> set[tuple[int, int]]:
    """The unit squares that a box with integer corners covers."""
    x1, y1, x2, y2 = corners
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


@some
@given(boxes, boxes)
def test_overlap_equals_counting_unit_squares(first, second):
    iou = pairwise_iou(Boxes(first), Boxes(second))
    ioa = pairwise_ioa(Boxes(first), Boxes(second))
    assert iou.shape == ioa.shape == (len(first), len(second))
    for i, a in enumerate(map(cells, first)):
        for j, b in enumerate(map(cells, second)):
            assert float(iou[i, j]) == pytest.approx(len(a & b) / max(len(a | b), 1), abs=1e-6)
            assert float(ioa[i, j]) == pytest.approx(len(a & b) / max(len(b), 1), abs=1e-6)


@some
@given(boxes.map(lambda corners: [c for c in corners if cells(c)]))
def test_matched_iou_is_the_diagonal(corners):
    first, second = Boxes(corners), Boxes(corners[::-1])
    torch.testing.assert_close(matched_pairwise_iou(first, second), pairwise_iou(first, second).diagonal())


@pytest.mark.subset  # NaN in Detectron2 0.6
def test_matched_iou_of_boxes_without_area_is_0():
    assert matched_pairwise_iou(Boxes([[1, 1, 1, 1]]), Boxes([[1, 1, 1, 1]])).tolist() == [0]


def test_matched_iou_of_lists_of_two_lengths():
    with pytest.raises(AssertionError, match=r"1.*2"):
        matched_pairwise_iou(Boxes([[0, 0, 1, 1]]), Boxes([[0, 0, 1, 1]] * 2))


def test_overlap_leaves_its_inputs_alone_and_passes_gradients():
    first = torch.tensor([[0.0, 0.0, 4.0, 4.0]], requires_grad=True)
    second = torch.tensor([[1.0, 1.0, 6.0, 5.0]])
    iou = pairwise_iou(Boxes(first), Boxes(second))
    iou.sum().backward()
    assert first.tolist() == [[0, 0, 4, 4]] and second.tolist() == [[1, 1, 6, 5]]

    def of_right_side(x2: float) -> float:
        inter = (x2 - 1) * 3
        return inter / (x2 * 4 + 20 - inter)

    slope = (of_right_side(4.001) - of_right_side(3.999)) / 0.002
    assert float(first.grad[0, 2]) == pytest.approx(slope, rel=1e-3)


def test_point_distances_are_positive_exactly_inside():
    points = torch.tensor([[2.0, 3.0], [9.0, 3.0]])
    distances = pairwise_point_box_distance(points, Boxes([[0, 1, 8, 5]]))
    assert distances.tolist() == [[[2, 2, 6, 2]], [[9, 2, -1, 2]]]


@some
@given(boxes)
def test_box_mode_round_trip(corners):
    xyxy = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
    before = xyxy.clone()
    xywh = BoxMode.convert(xyxy, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    assert torch.equal(xyxy, before)
    assert torch.equal(BoxMode.convert(xywh, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS), xyxy)
    sides = xyxy[:, 2:] - xyxy[:, :2]
    assert torch.equal(xywh, torch.cat((xyxy[:, :2], sides), dim=1))


def test_same_mode_returns_the_box_itself():
    given_box = [1, 2, 3, 4]
    assert BoxMode.convert(given_box, BoxMode.XYWH_ABS, BoxMode.XYWH_ABS) is given_box


@pytest.mark.subset
def test_rotated_mode_says_where_to_get_it():
    with pytest.raises(NotImplementedError, match="installed Detectron2"):
        BoxMode.convert([1, 2, 3, 4, 5], BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS)


@some
@given(boxes, st.integers(1, 30), st.integers(1, 30))
def test_clipped_boxes_lie_in_the_image(corners, height, width):
    clipped = Boxes(corners)
    clipped.clip((height, width))
    assert len(clipped) == len(corners)
    for before, after in zip(corners, clipped):
        x1, y1, x2, y2 = before
        assert after.tolist() == [min(x1, width), min(y1, height), min(x2, width), min(y2, height)]


def test_indexing_by_mask_slice_and_negative_index():
    all_boxes = Boxes([[i, i, i + 1, i + 1] for i in range(4)])
    assert all_boxes[torch.tensor([True, False, False, True])].tensor[:, 0].tolist() == [0, 3]
    assert all_boxes[1:3].tensor[:, 0].tolist() == [1, 2]
    assert all_boxes[-1].tensor.tolist() == [[3, 3, 4, 4]]
    with pytest.raises(IndexError):
        all_boxes[4]


@pytest.mark.subset
@pytest.mark.parametrize("name", ["BitMasks", "RotatedBoxes", "Keypoints"])
def test_missing_structures_say_where_to_get_them(name):
    with pytest.raises(ImportError, match=f"{name}.*installed Detectron2"):
        exec(f"from detectron2.structures import {name}")
