"""Transforms of colours, with numbers recorded from Detectron2 0.6 (main of 2026-06-06)."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image, ImageOps

IMAGE = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
BOX = np.array([[1.0, 1, 4, 3]])


def test_a_function_changes_the_image_alone():
    darken = T.ColorTransform(lambda image: image // 2)
    aug_input = T.AugInput(IMAGE, boxes=BOX.copy(), sem_seg=IMAGE[:, :, 0])
    aug_input.transform(darken)
    np.testing.assert_array_equal(aug_input.image, IMAGE // 2)
    np.testing.assert_array_equal(aug_input.boxes, BOX)
    np.testing.assert_array_equal(aug_input.sem_seg, IMAGE[:, :, 0])
    assert isinstance(darken.inverse(), T.NoOpTransform)


@pytest.mark.parametrize("image", [IMAGE, IMAGE[:, :, 0]])
def test_functions_of_pillow(image):
    solarize = T.PILColorTransform(lambda picture: ImageOps.solarize(picture, 100))
    expected = np.asarray(ImageOps.solarize(Image.fromarray(image), 100))
    np.testing.assert_array_equal(solarize.apply_image(image), expected)
    np.testing.assert_array_equal(solarize.apply_box(BOX.copy()), BOX)


@pytest.mark.parametrize("kind", [T.ColorTransform, T.PILColorTransform])
def test_what_is_no_function_is_refused(kind):
    with pytest.raises(ValueError, match=r"callable|function"):
        kind("solarize")


def test_lighting():
    gray = np.full((1, 1, 3), 100, dtype=np.uint8)
    expected = [
        ([-10.5281, -11.3231, -11.3646], [89, 88, 88]),
        ([-10.486, -10.1604, -9.9596], [89, 89, 90]),
        ([2.3413, 3.0238, 2.4798], [102, 103, 102]),
    ]
    for seed, (added, pixel) in enumerate(expected):
        np.random.seed(seed)
        found = T.RandomLighting(50.0).get_transform(gray)
        np.testing.assert_allclose(found.src_image, added, atol=1e-4)
        assert found.apply_image(gray).tolist() == [[pixel]]
    with pytest.raises(AssertionError):
        T.RandomLighting(0.1).get_transform(gray[:, :, 0])
