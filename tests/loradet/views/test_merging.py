"""Tiles and mirrored views of a detector that finds whatever it sees give back exactly what there is."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from helpers.stand_in import StandIn, look
from hypothesis import given, settings
from hypothesis import strategies as st

from loradet.views import Views


def scene(
    rng: np.random.Generator, size: tuple[int, int], sides: tuple[int, int], count: int = 25, classes: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes with quarters of pixels, those of one class apart from each other; some touch the image's border."""
    height, width = size
    placed: list[tuple[np.ndarray, int]] = []
    for _ in range(count):
        w, h = (4 * rng.integers(sides[0], sides[1] + 1, 2)).clip(4, [4 * width, 4 * height]) / 4
        x, y = (rng.integers(0, 4 * (room + 1)) / 4 for room in (width - w, height - h))
        x, y = min(x, width - w), min(y, height - h)
        box, name = np.array([x, y, x + w, y + h]), int(rng.integers(classes))
        gaps = [np.maximum(box[:2] - other[2:], other[:2] - box[2:]).max() for other, n in placed if n == name]
        if all(gap >= 8 for gap in gaps):
            placed.append((box, name))
    return np.array([box for box, _ in placed]), np.array([name for _, name in placed])


def ordered(boxes, classes):
    rows = np.column_stack([classes, boxes])
    return rows[np.lexsort(rows.T[::-1])]


def assert_found(found, boxes, classes, tolerance=0.0):
    np.testing.assert_allclose(ordered(found[0], found[2]), ordered(boxes, classes), atol=tolerance, rtol=0)
    assert (np.diff(found[1]) <= 0).all()


@settings(deadline=None, max_examples=30)
@given(
    size=st.tuples(st.integers(40, 400), st.integers(40, 400)),
    tile=st.integers(64, 200),
    overlap=st.sampled_from([0.0, 0.05, 0.2, 0.35, 0.5, 0.8]),
    flip=st.booleans(),
    whole=st.booleans(),
    largest=st.sampled_from([12, 40, 150, 400]),
    seed=st.integers(0, 10_000),
)
@pytest.mark.parametrize("merge", ["nms", "fusion"])
def test_whatever_the_tiles_each_object_is_one_box(merge, size, tile, overlap, flip, whole, largest, seed):
    rng = np.random.default_rng(seed)
    boxes, classes = scene(rng, size, (8, largest))
    views = Views(tiles=tile, overlap=overlap, flip=flip, whole=whole, merge=merge)
    tolerance = 0.0 if merge == "nms" else 1e-3
    assert_found(look(StandIn(boxes, classes), size, views), boxes, classes, tolerance)


@settings(deadline=None, max_examples=25)
@given(
    size=st.tuples(st.integers(100, 400), st.integers(100, 400)),
    tile=st.integers(64, 200),
    overlap=st.sampled_from([0.2, 0.35, 0.5]),
    seed=st.integers(0, 10_000),
)
def test_objects_of_the_size_of_the_overlap_need_no_parts(size, tile, overlap, seed):
    largest = round(tile * overlap)
    boxes, classes = scene(np.random.default_rng(seed), size, (min(8, largest), largest))
    found = look(StandIn(boxes, classes, least=1.0), size, Views(tiles=tile, overlap=overlap))
    assert_found(found, boxes, classes)


def rows(found):
    boxes, scores, classes = found
    return [
        (int(c), *(round(float(v), 3) for v in box), round(float(s), 4)) for box, s, c in zip(boxes, scores, classes)
    ]


class Fixed:
    """Finds what it is told to, view by view: rows (class, x0, y0, x1, y1, score) in pixels of the view."""

    def __init__(self, *views):
        self.views = list(views)

    def __call__(self, inputs):
        return [{"instances": self._next(item)} for item in inputs]

    def _next(self, item):
        table = torch.tensor(self.views.pop(0), dtype=torch.float32).reshape(-1, 6)
        return Instances(
            (item["height"], item["width"]),
            pred_boxes=Boxes(table[:, 1:5]),
            scores=table[:, 5],
            pred_classes=table[:, 0].long(),
        )


def test_an_object_across_a_seam_has_each_side_from_where_it_is_seen():
    # Tiles from 0 to 100 and from 80 to 180. The borders cut the object at 70..130; each half is a little off.
    views = Views(tiles=100, overlap=0.2)
    fixed = Fixed([(1, 70, 20, 99, 51, 0.6)], [(1, 1, 21, 50, 50, 0.9)])
    assert rows(look(fixed, (100, 180), views)) == [(1, 70, 21, 130, 50, 0.9)]
    # The same seen as two classes are two objects, and so is what lies elsewhere along the seam.
    assert len(look(Fixed([(0, 70, 20, 99, 51, 0.6)], [(1, 1, 21, 50, 50, 0.9)]), (100, 180), views)[0]) == 2
    assert len(look(Fixed([(1, 70, 20, 99, 51, 0.6)], [(1, 1, 60, 50, 90, 0.9)]), (100, 180), views)[0]) == 2


@pytest.mark.parametrize("merge", ["nms", "fusion"])
def test_a_part_goes_into_the_whole_object_and_leaves_it_its_score(merge):
    views = Views(tiles=100, overlap=0.2, merge=merge)
    fixed = Fixed([(0, 85, 20, 100, 40, 0.9)], [(0, 5, 20, 40, 40, 0.5)])
    assert rows(look(fixed, (100, 180), views)) == [(0, 85, 20, 120, 40, 0.9)]


def test_fusion_is_the_mean_weighted_by_scores():
    views = Views(flip=True, scales=(1, 0.5), merge="fusion")
    # Four views: three find the first object, one the second; mirrored views count from the right.
    fixed = Fixed(
        [(0, 10, 10, 30, 30, 0.8), (0, 60, 60, 90, 90, 0.4)],
        [(0, 68, 10, 88, 30, 0.6)],
        [(0, 12, 10, 34, 30, 0.4)],
        [],
    )
    first = [(0.8 * a + 0.6 * b + 0.4 * c) / 1.8 for a, b, c in ((10, 12, 12), (30, 32, 34))]
    found = rows(look(fixed, (100, 100), views))
    assert found[0] == (0, round(first[0], 3), 10, round(first[1], 3), 30, round(0.6 * 3 / 4, 4))
    assert found[1] == (0, 60, 60, 90, 90, 0.1)


@pytest.mark.parametrize("merge", ["nms", "fusion"])
def test_merging_is_what_a_plain_loop_does(merge):
    """Of whole images, against the definition, box by box."""
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 120, (3, 60, 2))
    tables = [
        np.column_stack([rng.integers(0, 3, 60), c, c + rng.uniform(15, 60, (60, 2)), s])
        for c, s in zip(corners, rng.permutation(180).reshape(3, 60) / 180 + 0.003)
    ]
    found = rows(look(Fixed(*tables), (200, 200), Views(scales=(0.5, 1, 2), merge=merge, merge_iou=0.4)))
    wanted = _plain_nms(tables) if merge == "nms" else _plain_fusion(tables)
    assert len(wanted) < 150
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def _falling(tables):
    return sorted(np.concatenate(tables).astype(np.float32).astype(float).tolist(), key=lambda row: -row[5])


def _plain_nms(tables):
    kept = []
    for row in _falling(tables):
        if all(row[0] != other[0] or _iou(row[1:5], other[1:5]) <= 0.4 for other in kept):
            kept.append(row)
    return kept


def _plain_fusion(tables):
    clusters: list[list] = []
    for row in _falling(tables):
        own = [(_iou(row[1:5], _mean(c)), -i) for i, c in enumerate(clusters) if c[0][0] == row[0]]
        best = max(own, default=(0, 0))
        if best[0] > 0.4:
            clusters[-best[1]].append(row)
        else:
            clusters.append([row])
    fused = [(c[0][0], *_mean(c), np.mean([r[5] for r in c]) * min(len(c), 3) / 3) for c in clusters]
    return sorted(fused, key=lambda row: -row[5])


def _mean(cluster):
    weights = np.array([row[5] for row in cluster])
    return (weights[:, None] * np.array([row[1:5] for row in cluster])).sum(0) / weights.sum()


def _iou(a, b):
    both = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_batches_hold_views_of_one_size_and_change_nothing():
    boxes, classes = scene(np.random.default_rng(0), (300, 300), (10, 60))
    views = Views(tiles=100, flip=True, whole=True)
    plain = look(StandIn(boxes, classes), (300, 300), views)
    for size in (3, 7, 100):
        detector = StandIn(boxes, classes)
        assert rows(look(detector, (300, 300), views, batch_size=size)) == rows(plain)
        assert max(detector.calls) == min(size, 32) and sum(detector.calls) == 34


def test_an_image_without_any_detection():
    found = look(StandIn(np.zeros((0, 4)), np.zeros(0, int)), (300, 300), Views(tiles=100, merge="fusion"))
    assert [len(column) for column in found] == [0, 0, 0]
