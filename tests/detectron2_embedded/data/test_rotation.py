"""Rotation, with numbers recorded from Detectron2 0.6 (main of 2026-06-06) with OpenCV 5.0."""

import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st

IMAGE = (np.arange(24).reshape(4, 6) * 10).astype(np.uint8)
BOX = [[1.0, 1.0, 4.0, 3.0]]

# (arguments, size of the result, what BOX becomes)
RECORDED = [
    ((30,), (6, 7), [1.2679, 1.634, 4.866, 4.866]),
    ((30, False), (4, 6), [0.7679, 0.634, 4.366, 3.866]),
    ((30, False, (1, 3)), (4, 6), [0.0, -0.2321, 3.5981, 3.0]),
    ((30, True, (1, 3)), (6, 7), [1.2679, 1.634, 4.866, 4.866]),
    ((90,), (6, 4), [1.0, 2.0, 3.0, 5.0]),
    ((-135,), (7, 7), [2.0858, 1.3787, 5.6213, 4.9142]),
]


@pytest.mark.parametrize(("arguments", "size", "box"), RECORDED)
def test_sizes_and_boxes(arguments, size, box):
    rotation = T.RotationTransform(4, 6, *arguments)
    assert rotation.apply_image(IMAGE).shape == size
    assert (rotation.bound_h, rotation.bound_w) == size
    given_box = np.array(BOX)
    found = rotation.apply_box(given_box)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [box], atol=1e-4)
    np.testing.assert_array_equal(given_box, BOX)


def test_pixels():
    """What lies outside of the image is black; OpenCV's versions round differently."""
    found = T.RotationTransform(4, 6, 30, expand=False).apply_image(IMAGE)
    expected = [
        [0, 9, 27, 64, 103, 80],
        [5, 34, 72, 111, 150, 188],
        [42, 80, 119, 158, 196, 183],
        [54, 127, 166, 192, 95, 0],
    ]
    np.testing.assert_allclose(found.astype(int), expected, atol=4)
    assert found.dtype == np.uint8


def test_a_quarter_turn_moves_whole_pixels():
    rotation = T.RotationTransform(4, 6, 90)
    colors = np.stack([IMAGE, IMAGE + 1, IMAGE + 2], axis=2)
    np.testing.assert_array_equal(rotation.apply_image(colors), np.rot90(colors))
    np.testing.assert_array_equal(rotation.inverse().apply_image(np.rot90(colors)), colors)
    np.testing.assert_array_equal(rotation.apply_image(IMAGE[:, :, None]), np.rot90(IMAGE))
    floats = IMAGE.astype(np.float32) / 7
    np.testing.assert_allclose(rotation.apply_image(floats), np.rot90(floats), atol=1e-5)


def test_label_maps_hold_no_labels_that_were_not_there():
    labels = (IMAGE // 100) * 3
    rotation = T.RotationTransform(4, 6, 30)
    assert set(np.unique(rotation.apply_segmentation(labels))) == {0, 3, 6}
    assert set(np.unique(rotation.apply_image(labels))) > {0, 3, 6}
    nearest = T.RotationTransform(4, 6, 30, interp=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(nearest.apply_image(labels), rotation.apply_segmentation(labels))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 40),
    st.integers(2, 40),
    st.floats(-720, 720),
    st.booleans(),
    st.tuples(st.floats(0, 40), st.floats(0, 40)) | st.none(),
)
def test_points_turn_as_the_formula_says(height, width, angle, expand, center):
    """p' = R(p - c) + c, counter-clockwise with y pointing down; the middle stays the middle with `expand`."""
    rotation = T.RotationTransform(height, width, angle, expand, center)
    points = np.array([[0.0, 0.0], [width, 0], [3.5, 1.25]])
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    matrix = np.array([[cos, sin], [-sin, cos]])
    middle = np.array([width / 2, height / 2])
    if expand:
        start, end = middle, np.array([rotation.bound_w / 2, rotation.bound_h / 2])
    else:
        start = end = middle if center is None else np.array(center)
    expected = (points - start) @ matrix.T + end if angle % 360 else points
    np.testing.assert_allclose(rotation.apply_coords(points), expected, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.floats(-400, 400))
def test_the_inverse_returns_within_a_pixel(height, width, angle):
    rotation = T.RotationTransform(height, width, angle)
    points = np.array([[1.0, 1.0], [width / 3, height / 2]])
    back = rotation.inverse()
    np.testing.assert_allclose(back.apply_coords(rotation.apply_coords(points)), points, atol=1.0)
    assert back.apply_image(np.zeros((rotation.bound_h, rotation.bound_w), np.uint8)).shape == (height, width)


def test_the_inverse_as_recorded():
    rotation = T.RotationTransform(4, 6, 30)
    found = rotation.inverse().apply_box(np.array(BOX))
    np.testing.assert_allclose(found, [[1.3349, -0.4821, 4.933, 2.75]], atol=1e-4)
    with pytest.raises(NotImplementedError):
        T.RotationTransform(4, 6, 30, expand=False).inverse()


def test_whole_turns_and_nothing_at_all():
    turn = T.RotationTransform(4, 6, 720)
    assert turn.apply_image(IMAGE) is IMAGE
    np.testing.assert_array_equal(turn.apply_box(np.array(BOX)), BOX)
    assert T.RotationTransform(4, 6, 30).apply_box(np.zeros((0, 4))).shape == (0, 4)
    with pytest.raises(AssertionError):
        T.RotationTransform(4, 6, 30).apply_image(IMAGE.T)


# (arguments, for numpy seeds 0 to 3: angle, centre), None for no rotation at all
DRAWN = [
    ({"angle": [-90, 90]}, [(8.7864, (3, 2)), (-14.936, (3, 2)), (-11.5209, (3, 2)), (9.1436, (3, 2))]),
    ({"angle": [0, 90, 180, 270], "sample_style": "choice"}, [None, (90, (3, 2)), None, (180, (3, 2))]),
    (
        {"angle": [-30.0, 30.0], "expand": False, "center": [[0.25, 0.5], [0.75, 0.5]]},
        [(2.9288, (3.6456, 2)), (-4.9787, (3.661, 2)), (-3.8403, (1.5778, 2)), (3.0479, (3.6244, 2))],
    ),
    (
        {"angle": [-30.0, 30.0], "expand": False, "center": [0.25, 0.5]},
        [(2.9288, (1.5, 2)), (-4.9787, (1.5, 2)), (-3.8403, (1.5, 2)), (3.0479, (1.5, 2))],
    ),
]


@pytest.mark.parametrize(("arguments", "drawn"), DRAWN)
def test_drawn_angles_and_centres(arguments, drawn):
    augmentation = T.RandomRotation(**arguments)
    for seed, expected in enumerate(drawn):
        np.random.seed(seed)
        found = augmentation.get_transform(IMAGE)
        if expected is None:
            assert isinstance(found, T.NoOpTransform)
        else:
            assert found.angle == pytest.approx(expected[0], abs=1e-4)
            assert tuple(found.center) == pytest.approx(expected[1], abs=1e-4)
            assert found.expand == arguments.get("expand", True)


def test_one_angle_and_an_interpolation():
    found = T.RandomRotation(20, interp=cv2.INTER_NEAREST).get_transform(IMAGE)
    assert (found.angle, found.interp) == (20, cv2.INTER_NEAREST)
    with pytest.raises(AssertionError):
        T.RandomRotation(20, sample_style="best")


@pytest.mark.subset
def test_a_centre_can_be_chosen_from_a_list():
    """Detectron2 says it can, and stops: numpy chooses from one row of values only."""
    augmentation = T.RandomRotation([20], expand=False, center=[(0, 0), (1, 0.5)], sample_style="choice")
    np.random.seed(0)
    found = {tuple(augmentation.get_transform(IMAGE).center) for _ in range(20)}
    assert found == {(0, 0), (6, 2)}
