"""Crops that look at boxes or labels, with numbers recorded from Detectron2 0.6 (main of 2026-06-06)."""

import numpy as np
import pytest
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, pairwise_iou

BOXES = np.array([[10.0, 12, 40, 50], [30, 5, 70, 45]])
IMAGE = np.zeros((60, 80, 3), dtype=np.uint8)


def window(crop: T.Transform) -> tuple[int, int, int, int] | None:
    return None if isinstance(crop, T.NoOpTransform) else (crop.x0, crop.y0, crop.w, crop.h)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [(16, 7, 57, 48), (26, 15, 38, 20), None, (7, 1, 51, 56), (3, 14, 71, 43), (3, 13, 63, 35)]),
        (
            {"min_ious": (0.3,), "min_crop_size": 0.5},
            [None, (19, 6, 49, 41), None, (32, 2, 42, 55), (2, 10, 74, 48), (1, 4, 76, 44)],
        ),
    ],
)
def test_windows_with_a_least_iou(arguments, expected):
    augmentation = T.MinIoURandomCrop(**arguments)
    for seed, drawn in enumerate(expected):
        np.random.seed(seed)
        assert window(augmentation.get_transform(IMAGE, BOXES)) == drawn


def test_each_window_keeps_the_least_iou():
    np.random.seed(1)
    augmentation = T.MinIoURandomCrop(min_ious=(0.3,), min_crop_size=0.4)
    augmentation.sample_mode = (0.3,)
    for _ in range(20):
        crop = augmentation.get_transform(IMAGE, BOXES)
        x0, y0, w, h = window(crop)
        # The drawn edges and offsets are cut to whole pixels one by one, so the window can lose one.
        ious = pairwise_iou(Boxes([[x0, y0, x0 + w, y0 + h]]), Boxes(BOXES))
        assert ious.min() >= 0.27
        aug_input = T.AugInput(IMAGE, boxes=BOXES.copy())
        aug_input.transform(crop)
        assert aug_input.image.shape == (h, w, 3)


def test_images_without_boxes():
    np.random.seed(3)
    assert window(T.MinIoURandomCrop().get_transform(IMAGE, np.zeros((0, 4)))) == (45, 3, 27, 53)
    np.random.seed(3)
    aug_input = T.AugInput(IMAGE)
    assert isinstance(T.MinIoURandomCrop()(aug_input), T.NoOpTransform)


@pytest.mark.subset
def test_where_no_window_will_do_the_image_stays():
    """Detectron2 returns None then, which ends in an error. Grey images (H, W) end in one with it, too."""
    augmentation = T.MinIoURandomCrop(mode_trials=2, crop_trials=2)
    augmentation.sample_mode = (0.999,)
    assert isinstance(augmentation.get_transform(IMAGE[:, :, 0], BOXES), T.NoOpTransform)


LABELS = np.zeros((20, 30), dtype=np.uint8)
LABELS[5:9, 10:14] = 1
LABELS[:3] = 2


@pytest.mark.parametrize(
    ("arguments", "corners"),
    [
        ({"single_category_max_area": 0.75}, [(14, 7), (16, 0), (11, 10), (10, 0), (8, 1)]),
        ({"single_category_max_area": 0.8, "ignored_category": 0}, [(14, 7), (12, 1), (11, 2), (10, 0), (8, 1)]),
        ({}, [(15, 12), (11, 5), (15, 8), (3, 10), (14, 10)]),
    ],
)
def test_windows_that_no_category_fills(arguments, corners):
    augmentation = T.RandomCrop_CategoryAreaConstraint("relative", (0.4, 0.4), **arguments)
    for seed, corner in enumerate(corners):
        np.random.seed(seed)
        aug_input = T.AugInput(np.zeros((20, 30, 3), dtype=np.uint8), sem_seg=LABELS)
        assert window(augmentation(aug_input)) == (*corner, 12, 8)
        assert aug_input.sem_seg.shape == aug_input.image.shape[:2] == (8, 12)


@pytest.mark.subset
def test_a_label_map_is_needed_to_look_at_it():
    augmentation = T.RandomCrop_CategoryAreaConstraint("relative", (0.4, 0.4), single_category_max_area=0.5)
    with pytest.raises(ValueError, match=r"sem_seg is None"):
        augmentation(T.AugInput(IMAGE))


def test_windows_around_an_instance():
    instance = {"bbox": [1.5, 2.5, 30, 9], "bbox_mode": BoxMode.XYWH_ABS}
    for seed, corner in enumerate([(15, 4), (11, 5), (15, 0), (3, 2), (14, 2), (14, 3)]):
        np.random.seed(seed)
        crop = detection_utils.gen_crop_transform_with_instance((10, 20), (60, 80), instance)
        assert window(crop) == (*corner, 20, 10)
        assert crop.x0 <= 16.5 <= crop.x0 + 20
        assert crop.y0 <= 7 <= crop.y0 + 10


@pytest.mark.parametrize(("crop_size", "image_size"), [((10, 10), (15, 15)), ((61, 10), (60, 80))])
def test_windows_around_an_instance_must_fit(crop_size, image_size):
    instance = {"bbox": [10, 10, 100, 100], "bbox_mode": BoxMode.XYXY_ABS}
    with pytest.raises(AssertionError):
        detection_utils.gen_crop_transform_with_instance(crop_size, image_size, instance)
