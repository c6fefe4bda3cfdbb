"""Random colours: what each of the four does, by numbers worked out here."""

import colorsys

import numpy as np
import pytest
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st

from loradet.datasets.augment import RandomColor
from loradet.datasets.seeding import seeded
from loradet.errors import UserError

LUMA = np.array([0.299, 0.587, 0.114])
SCENE = np.random.default_rng(0).integers(60, 180, (20, 30, 3), dtype=np.uint8)
OFF = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "prob": 1.0}


def changed(image, seed=0, **options):
    with seeded(seed):
        return RandomColor(**{**OFF, **options}).get_transform(image).apply_image(image)


def factor(place, seed=0):
    with seeded(seed):
        np.random.uniform(size=4)
        return np.random.uniform(-1.0, 1.0, size=4)[place]


@pytest.mark.parametrize("seed", range(4))
def test_brightness_multiplies(seed):
    expected = SCENE * (1 + 0.4 * factor(0, seed))
    assert np.abs(changed(SCENE, seed, brightness=0.4) - expected).max() < 1


@pytest.mark.parametrize("seed", range(4))
def test_contrast_moves_from_the_mean_luma(seed):
    mean, by = (SCENE @ LUMA).mean(), 1 + 0.5 * factor(1, seed)
    expected = (mean + by * (SCENE - mean)).clip(0, 255)
    assert np.abs(changed(SCENE, seed, contrast=0.5) - expected).max() < 1


@pytest.mark.parametrize("seed", range(4))
def test_saturation_is_the_distance_from_grey(seed):
    luma, by = (SCENE @ LUMA)[..., None], 1 + 0.3 * factor(2, seed)
    expected = (luma + by * (SCENE - luma)).clip(0, 255)
    assert np.abs(changed(SCENE, seed, saturation=0.3) - expected).max() < 1


@pytest.mark.parametrize("seed", range(4))
def test_hue_keeps_the_luma_and_turns_colours(seed):
    turned = changed(SCENE, seed, hue=0.05)
    assert np.abs(turned @ LUMA - SCENE @ LUMA).max() < 1
    # A muted red, whose hue of HSV moves by about as much, in the direction of the draw.
    red = np.full((4, 4, 3), (160, 100, 100), np.uint8)
    hue = (colorsys.rgb_to_hsv(*(changed(red, seed, hue=0.05)[0, 0] / 255))[0] + 0.5) % 1 - 0.5
    assert abs(abs(hue) - abs(0.05 * factor(3, seed))) < 0.03


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 3]))
def test_grey_stays_grey(seed, channels):
    image = np.repeat(SCENE[..., :1], channels, axis=2)
    options = {"brightness": 0.5, "contrast": 0.5, "saturation": 1.0, "hue": 0.5}
    found = changed(image, seed, **options, image_format="L" if channels == 1 else "RGB")
    assert found.shape == image.shape and (found == found[..., :1]).all()
    without = changed(image, seed, **{**options, "saturation": 0.0, "hue": 0.0})
    assert (found == without).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_channel_orders_give_the_same_colours(seed):
    options = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1, "prob": 0.5}
    rgb = changed(SCENE, seed, **options)
    bgr = changed(np.ascontiguousarray(SCENE[..., ::-1]), seed, **options, image_format="BGR")
    assert np.abs(rgb.astype(int) - bgr[..., ::-1]).max() <= 1


def test_nothing_happens_with_probability_0_and_boxes_stay():
    colours = RandomColor(prob=0.0)
    assert isinstance(colours.get_transform(SCENE), T.NoOpTransform)
    with seeded(1):
        transform = RandomColor(prob=1.0).get_transform(SCENE)
    boxes = np.array([[1.5, 2.0, 9.0, 7.25]])
    assert (transform.apply_box(boxes) == boxes).all()


def test_each_happens_as_often_as_said():
    hits = 0
    for seed in range(400):
        with seeded(seed):
            hits += not isinstance(RandomColor(prob=0.2).get_transform(SCENE[:2]), T.NoOpTransform)
    assert abs(hits / 400 - (1 - 0.8**4)) < 0.07


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"brightness": 1.5}, "brightness=1.5"),
        ({"prob": -0.1}, "prob=-0.1"),
        ({"hue": 0.6}, "hue=0.6"),
        ({"image_format": "YUV-BT.601"}, "expected one of RGB, BGR, L"),
    ],
)
def test_values_that_cannot_be(options, words):
    with pytest.raises(UserError, match=words):
        RandomColor(**options)


def test_other_images_are_refused():
    with pytest.raises(UserError, match="eight bits, got float64"):
        RandomColor().get_transform(SCENE / 255)
