"""RoIAlign and the pooler over a pyramid, against loops and formulas."""

import math

import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels, convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from hypothesis import given, settings
from hypothesis import strategies as st


def bilinear(map_: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Value (C,) between the pixels; pixel centres are at integers, coordinates are limited to the map."""
    height, width = map_.shape[1:]
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    fx, fy = x - left, y - top
    upper = map_[:, top, left] * (1 - fx) + map_[:, top, left + 1] * fx
    lower = map_[:, top + 1, left] * (1 - fx) + map_[:, top + 1, left + 1] * fx
    return upper * (1 - fy) + lower * fy


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_equals_the_loop(aligned):
    map_ = torch.randn(1, 3, 10, 12)
    boxes = torch.tensor([[8.0, 6.0, 60.0, 50.0], [20.5, 3.2, 41.0, 70.0]])
    size, scale, ratio = (3, 2), 1 / 8, 2
    produced = ROIAlign(size, scale, ratio, aligned=aligned)(map_, torch.cat((torch.zeros(2, 1), boxes), dim=1))
    shift = 0.5 if aligned else 0.0
    for r, box in enumerate((boxes * scale - shift).tolist()):
        cell_h, cell_w = (box[3] - box[1]) / size[0], (box[2] - box[0]) / size[1]
        for i in range(size[0]):
            for j in range(size[1]):
                samples = [
                    bilinear(
                        map_[0], box[0] + (j + (b + 0.5) / ratio) * cell_w, box[1] + (i + (a + 0.5) / ratio) * cell_h
                    )
                    for a in range(ratio)
                    for b in range(ratio)
                ]
                torch.testing.assert_close(produced[r, :, i, j], sum(samples) / len(samples), rtol=1e-4, atol=1e-5)


# Detectron2 0.6 (main of 2026-06-06) hands half precision to torchvision's kernel, which has none on the CPU.
@pytest.mark.subset
def test_roi_align_keeps_coordinates_in_half_precision():
    """With bfloat16 boxes, 1001 and 1003 would both be 1000 or 1004."""
    ramp = torch.arange(1200.0)[None, None, None].expand(1, 1, 8, 1200) / 1200
    rois = torch.tensor([[0, 1001.0, 2, 1003.0, 4], [0, 1003.0, 2, 1005.0, 4]])
    exact = ROIAlign(1, 1.0, 2)(ramp, rois)
    half = ROIAlign(1, 1.0, 2)(ramp.bfloat16(), rois)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=1e-2, atol=0)
    with pytest.raises(AssertionError, match=r"\(R, 5\)"):
        ROIAlign(1, 1.0, 2)(ramp, rois[:, 1:])


sides = st.floats(min_value=0.5, max_value=2000)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.tuples(sides, sides), min_size=1, max_size=8), level=st.integers(2, 5))
def test_levels_equal_the_formula(sizes, level):
    boxes = torch.tensor([[7.0, 9.0, 7 + w, 9 + h] for w, h in sizes])
    found = assign_boxes_to_levels([Boxes(boxes[:1]), Boxes(boxes[1:])], 2, 5, 224, level)
    for box, k in zip(boxes.double().tolist(), found.tolist()):
        exact = level + math.log2(math.sqrt((box[2] - box[0]) * (box[3] - box[1])) / 224)
        if abs(exact - round(exact)) > 1e-4:
            assert k == min(max(math.floor(exact), 2), 5) - 2


def test_squares_at_the_borders_of_levels():
    squares = torch.tensor([[0.0, 0, side, side] for side in (111.9, 112, 223.9, 224, 447.9, 448, 1, 5000, 0)])
    levels = assign_boxes_to_levels([Boxes(squares)], 2, 5, 224, 4)
    assert levels.tolist() == [0, 1, 1, 2, 2, 3, 0, 3, 0]


def pooler(**options) -> ROIPooler:
    defaults = dict(output_size=2, scales=[1 / 4, 1 / 8, 1 / 16], sampling_ratio=2, pooler_type="ROIAlignV2")
    return ROIPooler(**{**defaults, **options})


def pyramid(num_images: int = 2) -> list[torch.Tensor]:
    return [torch.randn(num_images, 3, 256 // stride, 256 // stride, requires_grad=True) for stride in (4, 8, 16)]


def test_boxes_come_back_in_order_each_from_its_level():
    maps = pyramid()
    corners, lengths = torch.rand(2, 9, 2) * 20, torch.rand(2, 9, 2) * 230
    boxes = [Boxes(torch.cat((c, c + s), dim=1)) for c, s in zip(corners, lengths)]
    module = pooler(canonical_box_size=112)
    together = module(maps, boxes)
    levels = assign_boxes_to_levels(boxes, 2, 4, 112, 4)
    assert len(levels.unique()) > 1
    for r, (level, roi) in enumerate(zip(levels.tolist(), convert_boxes_to_pooler_format(boxes))):
        alone = ROIAlign(2, 1 / 2 ** (level + 2), 2)(maps[level], roi[None])
        torch.testing.assert_close(together[r], alone[0])
    together.sum().backward()
    assert all(map_.grad is not None for map_ in maps)


def test_every_map_stays_in_the_graph_without_a_box():
    maps = pyramid()
    output = pooler()(maps, [Boxes([]), Boxes([])])
    assert output.shape == (0, 3, 2, 2)
    output.sum().backward()
    assert all(map_.grad is not None and not map_.grad.any() for map_ in maps)


# Detectron2 0.6 (main of 2026-06-06) hands such boxes to torchvision, which reads past the end of its memory.
@pytest.mark.subset
@pytest.mark.parametrize("pooler_type", ["ROIAlignV2", "ROIAlign", "ROIPool"])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("num_maps", [1, 3])
def test_every_box_has_a_row_even_one_that_cannot_be_sampled(num_maps, pooler_type, sampling_ratio):
    nan, inf = math.nan, math.inf
    good = torch.tensor([[4.0, 4, 60, 50], [10, 20, 200, 190]])
    odd = torch.tensor([[nan] * 4, [nan, 0, 9, 9], [0, 0, inf, 30], [-inf, 7, inf, 7], [inf] * 4, [50, 4, 10, 40]])
    maps = pyramid()[:num_maps]
    scales = [1 / 4, 1 / 8, 1 / 16][:num_maps]
    module = pooler(scales=scales, pooler_type=pooler_type, sampling_ratio=sampling_ratio)
    boxes = [Boxes(torch.cat((odd, good[:1])).clone()), Boxes(torch.cat((good[1:], odd)))]
    pooled = module(maps, boxes)
    assert pooled.shape == (14, 3, 2, 2)
    assert torch.equal(pooled[6:8], module(maps, [Boxes(good[:1]), Boxes(good[1:])]))
    assert pooled[6:8].any() and not pooled[:6].any() and not pooled[8:].any()
    assert torch.equal(boxes[0].tensor[:6].isnan(), odd.isnan())
    assert module(maps, [Boxes(odd[:1]), Boxes([])]).shape == (1, 3, 2, 2)


def test_the_format_names_the_image_of_each_box():
    boxes = [Boxes([[0, 1, 2, 3]]), Boxes([]), Boxes([[4, 5, 6, 7], [8, 9, 10, 11]])]
    rows = convert_boxes_to_pooler_format(boxes)
    assert rows.tolist() == [[0, 0, 1, 2, 3], [2, 4, 5, 6, 7], [2, 8, 9, 10, 11]]


def test_roi_pool_takes_the_maximum():
    maps = [torch.arange(64.0).reshape(1, 1, 8, 8)]
    module = pooler(scales=[1 / 4], pooler_type="ROIPool", output_size=(1, 1))
    assert module(maps, [Boxes([[0, 0, 12, 12]])]).item() == maps[0][0, 0, :4, :4].max().item()


@pytest.mark.subset
def test_bad_input():
    with pytest.raises(AssertionError, match="3 maps, got 2"):
        pooler()(pyramid()[:2], [Boxes([]), Boxes([])])
    with pytest.raises(AssertionError, match="1 images, the batch has 2"):
        pooler()(pyramid(), [Boxes([])])
    with pytest.raises(NotImplementedError, match=r"ROIAlignRotated.*installed Detectron2"):
        pooler(pooler_type="ROIAlignRotated")
    with pytest.raises(AssertionError, match=r"1/2\*\*k"):
        pooler(scales=[1 / 8, 1 / 4])
