"""Augmentations that cut a window out of the image, or fill it up to a size."""

import numpy as np
from detectron2.data.transforms.augmentation import Augmentation
from detectron2.structures import Boxes, pairwise_iou
from fvcore.transforms.transform import CropTransform, NoOpTransform, PadTransform, Transform, TransformList


class RandomCrop(Augmentation):
    """Crop a window at a random place.

    Args:
        crop_type: "relative": `crop_size` is a fraction (h, w) of the image; "relative_range": a fraction
            drawn from [crop_size, 1); "absolute": pixels (h, w), at most the image; "absolute_range": height
            and width are both drawn from crop_size = (min, max) pixels.
        crop_size: two numbers, as `crop_type` says.
    """

    CROP_TYPES = ("relative_range", "relative", "absolute", "absolute_range")

    def __init__(self, crop_type: str, crop_size: tuple[float, float]):
        if crop_type not in self.CROP_TYPES:
            raise AssertionError(f"crop_type must be one of {self.CROP_TYPES}, got {crop_type!r}.")
        if crop_type == "absolute_range" and crop_size[0] > crop_size[1]:
            raise AssertionError(f"crop_size of 'absolute_range' must be (min, max), got {crop_size}.")
        self.crop_type = crop_type
        self.crop_size = crop_size

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((height, width))
        if crop_h > height or crop_w > width:
            raise AssertionError(
                f"RandomCrop({self.crop_type!r}, {self.crop_size}) does not fit into {(height, width)}."
            )
        y0 = np.random.randint(height - crop_h + 1)
        x0 = np.random.randint(width - crop_w + 1)
        return CropTransform(x0, y0, crop_w, crop_h)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the window for an image of (height, width); draws for the range types."""
        height, width = image_size
        first, second = self.crop_size
        if self.crop_type == "absolute":
            return min(first, height), min(second, width)
        if self.crop_type == "absolute_range":
            crop_h = np.random.randint(min(height, first), min(height, second) + 1)
            crop_w = np.random.randint(min(width, first), min(width, second) + 1)
            return crop_h, crop_w
        fraction = np.asarray(self.crop_size, dtype=np.float32)
        if self.crop_type == "relative":
            return int(height * first + 0.5), int(width * second + 0.5)
        fraction = fraction + np.random.rand(2) * (1 - fraction)
        return int(height * fraction[0] + 0.5), int(width * fraction[1] + 0.5)


class RandomCrop_CategoryAreaConstraint(Augmentation):  # noqa: N801
    """`RandomCrop` that looks for a window which no single category of the label map fills.

    It takes the first of ten windows that holds at least two categories, none of them with a share of
    `single_category_max_area` or more, and the tenth window where there is no such one.

    Args:
        crop_type, crop_size: see `RandomCrop`.
        single_category_max_area: largest share of the labelled pixels; 1 takes any window.
        ignored_category: label whose pixels do not count.

    Raises:
        ValueError: it has to look at the label map and there is none.
    """

    TRIALS = 10

    def __init__(
        self,
        crop_type: str,
        crop_size: tuple[float, float],
        single_category_max_area: float = 1.0,
        ignored_category: int | None = None,
    ):
        self.crop_aug = RandomCrop(crop_type, crop_size)
        self.crop_type = crop_type
        self.crop_size = crop_size
        self.single_category_max_area = single_category_max_area
        self.ignored_category = ignored_category

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> Transform:
        if self.single_category_max_area >= 1.0:
            return self.crop_aug.get_transform(image)
        if sem_seg is None:
            raise ValueError("RandomCrop_CategoryAreaConstraint looks at a label map, but AugInput.sem_seg is None.")
        for _ in range(self.TRIALS):
            crop = self.crop_aug.get_transform(sem_seg)
            if self._is_varied(crop.apply_segmentation(sem_seg)):
                break
        return crop

    def _is_varied(self, labels: np.ndarray) -> bool:
        categories, counts = np.unique(labels, return_counts=True)
        if self.ignored_category is not None:
            counts = counts[categories != self.ignored_category]
        return len(counts) > 1 and counts.max() < counts.sum() * self.single_category_max_area


class FixedSizeCrop(Augmentation):
    """Crop to at most `crop_size` = (height, width); with `pad`, fill up on the right and at the bottom."""

    def __init__(
        self,
        crop_size: tuple[int, int],
        pad: bool = True,
        pad_value: float = 128.0,
        seg_pad_value: int = 255,
    ):
        self.crop_size = crop_size
        self.pad = pad
        self.pad_value = pad_value
        self.seg_pad_value = seg_pad_value

    def get_transform(self, image: np.ndarray) -> TransformList:
        transforms = [self._crop(image)]
        if self.pad:
            transforms.append(self._pad(image))
        return TransformList(transforms)

    def _crop(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        spare = np.maximum(np.subtract((height, width), self.crop_size), 0)
        y0, x0 = np.round(spare * np.random.uniform(0.0, 1.0)).astype(int)
        return CropTransform(int(x0), int(y0), self.crop_size[1], self.crop_size[0], width, height)

    def _pad(self, image: np.ndarray) -> Transform:
        cropped_h, cropped_w = (min(edge, limit) for edge, limit in zip(image.shape, self.crop_size))
        return PadTransform(
            0,
            0,
            self.crop_size[1] - cropped_w,
            self.crop_size[0] - cropped_h,
            cropped_w,
            cropped_h,
            self.pad_value,
            self.seg_pad_value,
        )


class MinIoURandomCrop(Augmentation):
    """Crop a window that keeps a drawn least IoU with every box, or nothing (the sampling of SSD, arXiv:1512.02325).

    First one of `min_ious`, 1 or 0 is drawn. 1 leaves the image as it is. With any other, windows are drawn whose
    edges are `min_crop_size` to 1 of the image's, with an aspect ratio of 1/2 to 2, until one has at least that
    IoU with each box and holds the middle of at least one. An image without boxes takes any window; where
    `boxes` are None it stays as it is.

    Args:
        min_ious: least values of the IoU between window and boxes.
        min_crop_size: least edge of a window relative to the image's.
        mode_trials: how often to draw a least IoU.
        crop_trials: how many windows to try with each.
    """

    def __init__(
        self,
        min_ious: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        mode_trials: int = 1000,
        crop_trials: int = 50,
    ):
        self.min_ious = min_ious
        self.sample_mode = (1, *min_ious, 0)
        self.min_crop_size = min_crop_size
        self.mode_trials = mode_trials
        self.crop_trials = crop_trials

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> Transform:
        if boxes is None:
            return NoOpTransform()
        boxes = boxes.reshape(-1, 4)
        for _ in range(self.mode_trials):
            min_iou = np.random.choice(self.sample_mode)
            if min_iou == 1:
                return NoOpTransform()
            for _ in range(self.crop_trials):
                crop = self._draw_window(*image.shape[:2], boxes, min_iou)
                if crop is not None:
                    return crop
        return NoOpTransform()

    def _draw_window(self, height: int, width: int, boxes: np.ndarray, min_iou: float) -> Transform | None:
        """A window, or None where the drawn one will not do."""
        crop_w = np.random.uniform(self.min_crop_size * width, width)
        crop_h = np.random.uniform(self.min_crop_size * height, height)
        if not 0.5 <= crop_h / crop_w <= 2:
            return None
        # Between 1 and the largest offset, in numpy's terms [largest, 1): that is how Detectron2 draws it.
        left = np.random.uniform(width - crop_w, 1.0)
        top = np.random.uniform(height - crop_h, 1.0)
        window = np.array((left, top, left + crop_w, top + crop_h)).astype(int)
        if window[0] == window[2] or window[1] == window[3]:
            return None
        if len(boxes):
            if pairwise_iou(Boxes(window[None]), Boxes(boxes)).min() < min_iou:
                return None
            middles = (boxes[:, :2] + boxes[:, 2:]) / 2
            if not ((middles > window[:2]) & (middles < window[2:])).all(axis=1).any():
                return None
        return CropTransform(int(left), int(top), int(crop_w), int(crop_h))
