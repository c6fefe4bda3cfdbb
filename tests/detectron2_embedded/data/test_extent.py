"""Rectangles that reach beyond the image, with numbers recorded from Detectron2 0.6 (main of 2026-06-06)."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image

IMAGE = (np.arange(24).reshape(4, 6) * 10).astype(np.uint8)
RECT = (-1.5, 0.5, 3.25, 3)


def test_pixels():
    bilinear = T.ExtentTransform(RECT, (3, 5)).apply_image(IMAGE)
    expected = [[0, 0, 28, 38, 47], [0, 0, 78, 88, 97], [0, 0, 128, 138, 147]]
    np.testing.assert_allclose(bilinear.astype(int), expected, atol=1)
    colors = np.stack([IMAGE, IMAGE + 1, IMAGE + 2], axis=2)
    nearest = T.ExtentTransform(RECT, (3, 5), Image.NEAREST).apply_image(colors)
    assert nearest[:, :, 1].tolist() == [[0, 0, 1, 11, 21], [0, 0, 61, 71, 81], [0, 0, 121, 131, 141]]
    assert nearest.shape == (3, 5, 3)
    assert T.ExtentTransform(RECT, (3, 5)).apply_image(IMAGE[:, :, None]).shape == (3, 5, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_boxes(dtype):
    box = np.array([[1, 1, 4, 3]], dtype=dtype)
    found = T.ExtentTransform(RECT, (3, 5)).apply_box(box)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[2.631579, 0.6, 5.789474, 3.0]], rtol=1e-6)
    np.testing.assert_array_equal(box, [[1, 1, 4, 3]])


@pytest.mark.subset
def test_label_maps_hold_no_labels_that_were_not_there():
    """Detectron2 interpolates them: it takes the number 0 of "nearest" for "no filter given"."""
    labels = np.array([[0, 7], [7, 0]], dtype=np.uint8)
    found = T.ExtentTransform((0, 0, 2, 2), (4, 4)).apply_segmentation(labels)
    np.testing.assert_array_equal(found, labels.repeat(2, 0).repeat(2, 1))


@pytest.mark.subset
def test_the_fill_is_seen():
    """Detectron2 has the argument, but today's pillow does not look at it: all is black outside."""
    filled = T.ExtentTransform((-1, 0, 2, 2), (2, 3), Image.NEAREST, fill=9)
    assert filled.apply_image(IMAGE).tolist() == [[9, 0, 10], [9, 60, 70]]
    assert filled.apply_image(np.stack([IMAGE] * 3, axis=2))[0, 0].tolist() == [9, 9, 9]


def test_drawn_rectangles():
    augmentation = T.RandomExtent((0.5, 2), (0.5, 1))
    expected = [
        ([-3.2409, -2.3539, 76.1523, 50.5749], (52, 79)),
        ([2.8437, -22.5061, 70.3757, 22.5152], (45, 67)),
        ([-18.842, -1.0933, 50.3976, 45.0663], (46, 69)),
    ]
    for seed, (rect, size) in enumerate(expected):
        np.random.seed(seed)
        found = augmentation.get_transform(np.zeros((40, 60, 3), dtype=np.uint8))
        assert list(found.src_rect) == pytest.approx(rect, abs=1e-4)
        assert found.output_size == size


def test_an_unmoved_rectangle_is_the_image():
    aug_input = T.AugInput(IMAGE, boxes=np.array([[1.0, 1, 4, 3]]))
    T.RandomExtent((1, 1), (0, 0))(aug_input)
    np.testing.assert_array_equal(aug_input.image, IMAGE)
    np.testing.assert_allclose(aug_input.boxes, [[1, 1, 4, 3]], atol=1e-6)
