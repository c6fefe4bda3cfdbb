"""Where tiles lie, and what a user may ask for."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradet.errors import UserError
from loradet.views import Views
from loradet.views.windows import Window, tile_starts, tile_windows


@settings(deadline=None)
@given(length=st.integers(1, 5000), tile=st.integers(32, 1500), overlap=st.floats(0, 0.9))
def test_tiles_go_from_end_to_end_and_overlap_as_asked(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    step = max(1, tile - round(tile * overlap))
    assert starts[0] == 0 and starts[-1] == max(0, length - tile)
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < one <= step for one in steps) and max(steps, default=0) - min(steps, default=0) <= 1
    # One fewer would not do.
    assert len(starts) == 1 or (len(starts) - 2) * step + tile < length


def test_tiles_are_of_one_size_and_small_images_go_whole():
    assert tile_windows(480, 640, 640, 0.2) == [Window(0, 0, 640, 480)]
    assert tile_windows(300, 1000, 640, 0.2) == [Window(0, 0, 640, 300), Window(360, 0, 640, 300)]
    many = tile_windows(1000, 1500, 640, 0.2)
    assert len(many) == 2 * 3 and {window[2:] for window in many} == {(640, 640)}
    assert many[-1] == Window(860, 360, 640, 640)


def test_the_looks_at_an_image():
    views = Views(tiles=640, whole=True, flip=True, scales=(1, 1.5))
    assert len(list(views.looks(1000, 1500))) == (2 * 3 + 1) * 2 * 2
    small = list(views.looks(100, 100))
    assert small == [(Window(0, 0, 100, 100), scale, flip) for scale in (1.0, 1.5) for flip in (False, True)]
    assert views.tag == "tiles640_whole_flip_scales1-1.5"
    assert Views(tiles=64, overlap=0.5, merge="fusion", merge_iou=0.7).tag == "tiles64_overlap0.5_fusion_iou0.7"
    assert (Views(flip=True).iou, Views(flip=True, merge="fusion").iou) == (0.5, 0.55)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "the image as it is"),
        ({"scales": (1,)}, "the image as it is"),
        ({"tiles": 16}, "tiles=16: expected a whole number of pixels from 32"),
        ({"tiles": 64.5}, "expected a whole number"),
        ({"tiles": 64, "overlap": 1}, "overlap=1: expected a share of the tile from 0 to 0.9"),
        ({"tiles": 64, "overlap": float("nan")}, "overlap=nan"),
        ({"whole": True, "flip": True}, "whole=True is for tiles"),
        ({"scales": (1, 9)}, "expected one or more numbers from 0.1 to 4"),
        ({"scales": ()}, "expected one or more"),
        ({"scales": (1.5, 1.5)}, "expected each once"),
        ({"flip": True, "merge": "mean"}, "merge='mean': expected nms or fusion"),
        ({"flip": True, "merge_iou": 1.0}, "merge_iou=1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(UserError, match=message) as caught:
        Views(**options)
    assert "\n" not in str(caught.value)
