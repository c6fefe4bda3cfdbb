"""Resizing against Pillow's, on noise, painted scenes and the JPEGs of small photographs."""

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from loradet.datasets.images.resizing import resize, to_planes

SIDES = st.integers(1, 400)
NEAREST, LANCZOS, BILINEAR, BICUBIC = 0, 1, 2, 3


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def scene(height, width, seed=0):
    """As smooth as photographs are: the amplitude falls with the frequency, and JPEG has been over it."""
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width
    fall = np.maximum(np.hypot(rows, columns), 1)[..., None] ** 1.5
    waves = np.fft.irfft2(
        np.fft.rfft2(rng.normal(size=(height, width, 3)), axes=(0, 1)) / fall, (height, width), (0, 1)
    )
    pixels = np.clip(128 + 50 * waves / waves.std(), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "JPEG", quality=90)
    return np.asarray(Image.open(file))


def by_pillow(image, size, interp=BILINEAR):
    return np.asarray(Image.fromarray(image).resize(size[::-1], interp))


def compare(image, size, interp=BILINEAR):
    """(largest distance in levels, share of values that differ)."""
    ours = resize(image, size, interp)
    assert ours.shape[:2] == size
    distances = np.abs(ours.astype(int) - by_pillow(image, size, interp).astype(int))
    return distances.max(), (distances > 0).mean()


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 9))
@example(100, 100, 80, 80, 0)  # many of its values lie in the middle of two levels
@example(160, 160, 448, 448, 0)
@example(5, 1, 1, 400, 0)
@example(232, 2, 12, 1, 2)  # whose columns Pillow filters first
def test_noise_is_resized_as_pillow_does_but_for_a_level_here_and_there(height, width, new_height, new_width, seed):
    image = noise(height, width, seed=seed)
    ours = resize(image, (new_height, new_width)).astype(int)
    distances = np.abs(ours - by_pillow(image, (new_height, new_width)).astype(int))
    if min(height, width) >= 16:  # few pixels may all be such ones
        assert (distances > 0).sum() <= 0.02 * distances.size + 30
    # Of 200 million values none was two levels apart; where both axes round otherwise, one may be.
    assert (distances > 1).sum() <= 1
    assert distances.max() <= 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((480, 640), (800, 1067)),
        ((1500, 2000), (800, 1067)),
        ((427, 640), (672, 1007)),
        ((333, 500), (480, 721)),
        ((600, 800), (224, 299)),
        ((512, 512), (800, 800)),
        ((1080, 1920), (640, 1138)),
        ((800, 1000), (640, 800)),
    ],
)
def test_scenes_differ_in_half_a_percent_of_values_at_most(old, new):
    largest, share = compare(scene(*old), new)
    assert largest <= 1
    assert share <= 0.005


def test_sizes_that_torch_rounds_otherwise_are_left_to_pillow():
    """4:5 puts an eighth of the values in the middle between two levels, and some of them twice."""
    image = noise(600, 800)
    np.testing.assert_array_equal(resize(image, (480, 640)), by_pillow(image, (480, 640)))


@pytest.mark.parametrize("interp", [NEAREST, LANCZOS, BICUBIC])
def test_other_filters_are_pillows(interp):
    image = noise(40, 50)
    np.testing.assert_array_equal(resize(image, (31, 77), interp), by_pillow(image, (31, 77), interp))


def test_four_channels_are_pillows():
    image = noise(40, 50, 4)
    np.testing.assert_array_equal(resize(image, (31, 77)), by_pillow(image, (31, 77)))


def test_one_channel_and_views_are_resized_as_their_copies_are():
    image = noise(60, 90)
    expected = resize(image, (43, 131))
    padded = np.zeros((80, 120, 3), np.uint8)
    padded[7:67, 11:101] = image
    read_only = np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape)
    views = [
        read_only,
        padded[7:67, 11:101],
        image[:, :, ::-1].copy()[:, :, ::-1],
        np.flip(np.flip(image, 1).copy(), 1),
    ]
    for view in views:
        np.testing.assert_array_equal(resize(view, (43, 131)), expected)
    np.testing.assert_array_equal(resize(image[:, :, 1], (43, 131)), expected[:, :, 1])
    np.testing.assert_array_equal(resize(image[:, :, 1:2], (43, 131)), expected[:, :, 1:2])
    assert resize(image, (60, 90)) is image


def test_planes_are_those_of_the_view():
    image = noise(31, 47)
    views = {
        "plain": image,
        "mirrored": np.flip(image, 1),
        "BGR": image[:, :, ::-1],
        "mirrored BGR": np.flip(image[:, :, ::-1], 1),
        "upside down": image[::-1],
        "window": image[3:20, 5:9],
        "turned": np.rot90(image),
        "grey": image[:, :, :1],
        "float": image.astype(np.float32),
    }
    for name, view in views.items():
        planes = to_planes(view)
        assert planes.flags.c_contiguous and not np.shares_memory(planes, image), name
        np.testing.assert_array_equal(planes, view.transpose(2, 0, 1), err_msg=name)
    np.testing.assert_array_equal(to_planes(image[:, :, 0])[0], image[:, :, 0])
