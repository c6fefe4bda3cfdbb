"""From a record of a data set to the input of a model, for images of any depth."""

from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform, TransformList

from loradet.datasets.augment.mosaic import Mosaic, MosaicPlan
from loradet.datasets.images.fast_decoding import reduces_jpegs
from loradet.datasets.images.intensity import Intensity
from loradet.datasets.images.reading import read_image, read_reduced
from loradet.datasets.images.resizing import resize, to_planes
from loradet.datasets.mapped_boxes import map_boxes
from loradet.errors import UserError

# Augmentations that look at an image's size alone.
_RESIZES = (T.Resize, T.ResizeShortestEdge, T.ResizeScale, T.RandomResize)


class DetectionMapper(DatasetMapper):
    """Detectron2's `DatasetMapper` with the project's own reading and resizing of images.

    Images of eight bits are resized by `loradet.datasets.images.resizing`, which a few of Pillow's values are one level
    from, and strips keep a pixel.

    Subclasses may override `read_image` and, as of Detectron2's, `_transform_annotations`. A `Mosaic` may stand in
    front of the augmentations; it reads other images, of `records`, which `build_train_loader` gives.

    Args:
        is_train, augmentations, image_format, use_instance_mask, use_keypoint, instance_mask_format,
            keypoint_hflip_indices, precomputed_proposal_topk, recompute_boxes: as Detectron2's.
        intensity: how values of image files become 0..255: "auto", "full_range", [low, high] or "percentile:1,99",
            see `loradet.datasets.images.intensity.Intensity`.
        reduced_decode: decode JPEG files that are twice as large as what the first augmentation resizes to, or larger,
            at a half, a quarter or an eighth of their size: quick, and slightly other pixels. For training.

    Raises:
        UserError: `intensity` is no rule, or `reduced_decode` or a mosaic cannot be.
    """

    records: Sequence[dict[str, Any]] | None = None

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation | Transform],
        image_format: str,
        intensity: str | Sequence[float] = "auto",
        reduced_decode: bool = False,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices: np.ndarray | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
    ):
        self.intensity = Intensity.parse(intensity)
        super().__init__(
            is_train,
            augmentations=augmentations,
            image_format=image_format,
            use_instance_mask=use_instance_mask,
            use_keypoint=use_keypoint,
            instance_mask_format=instance_mask_format,
            keypoint_hflip_indices=keypoint_hflip_indices,
            precomputed_proposal_topk=precomputed_proposal_topk,
            recompute_boxes=recompute_boxes,
        )
        self.reduced_decode = reduced_decode
        self.cache: ImageStore | None = None
        self._check_mosaic()
        if reduced_decode:
            self._check_reduced_decode()

    def read_image(self, file_name: str, format: str) -> np.ndarray:
        """An image file as (H, W, 3) uint8 in `format`, upright, by the mapper's rule of intensity."""
        return read_image(file_name, format, self.intensity)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one record, which is left as it is.

        Args:
            dataset_dict: as of Detectron2's mapper.

        Returns:
            The record with "image", uint8 (C, H, W), and in training "instances" in place of "annotations".

        Raises:
            OSError: the image cannot be read.
            SizeMismatchError: the image's size is not that of the record.
        """
        dataset_dict = deepcopy(dataset_dict)
        labels = None
        if "sem_seg_file_name" in dataset_dict:
            labels = utils.read_image(dataset_dict.pop("sem_seg_file_name"), "L")[:, :, 0]
        mosaic = self._draw_mosaic(dataset_dict)
        if mosaic is not None:
            aug_input = _Input(mosaic.paint(self._read_resized))
            dataset_dict["annotations"] = mosaic.annotations()
            dataset_dict["height"], dataset_dict["width"] = mosaic.size
        elif labels is None and self._resizes_first and (self.cache is not None or self.reduced_decode):
            aug_input = self._planned_input(dataset_dict)
        else:
            aug_input = _Input(self._read_whole(dataset_dict), sem_seg=labels)
        transforms = self._of_one_image(aug_input)
        image = aug_input.image
        dataset_dict["image"] = torch.from_numpy(to_planes(image))
        if labels is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(aug_input.sem_seg.astype(np.int64))
        if self.proposal_topk is not None:  # of an installed Detectron2
            utils.transform_proposals(dataset_dict, image.shape[:2], transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            dataset_dict.pop("annotations", None)
        elif "annotations" in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, image.shape[:2])
        return dataset_dict

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: TransformList, image_shape: tuple[int, int]
    ) -> None:
        """As Detectron2's, which takes boxes one by one."""
        instances = None
        if not (self.use_instance_mask or self.use_keypoint or self.recompute_boxes):
            instances = map_boxes(dataset_dict["annotations"], transforms, image_shape)
        if instances is None:
            super()._transform_annotations(dataset_dict, transforms, image_shape)
            return
        del dataset_dict["annotations"]
        dataset_dict["instances"] = utils.filter_empty_instances(instances)

    @property
    def has_fixed_resize(self) -> bool:
        """Whether the augmentations begin with a resize that gives an image the same size each time."""
        first = self.augmentations.augs[0] if self.augmentations.augs else None  # a mosaic needs images of any size
        if type(first) is T.ResizeShortestEdge:
            return len(set(first.short_edge_length)) == 1
        return type(first) is T.Resize

    def cached_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in which a cache keeps an image: once resized, where that is always the same; else its own.

        Draws from numpy's generator.
        """
        if not self.has_fixed_resize:
            return height, width
        plan = self.augmentations.augs[0].get_transform(_stand_in(height, width))
        return (max(1, plan.new_h), max(1, plan.new_w)) if isinstance(plan, T.ResizeTransform) else (height, width)

    def with_cache(self, cache: "ImageStore") -> "DetectionMapper":
        """A copy that looks for images in `cache` and puts those that it reads there."""
        other = copy(self)
        other.cache = cache
        return other

    @property
    def mosaic(self) -> Mosaic | None:
        """The augmentation that makes one image of four, where there is one."""
        first = self.augmentations.augs[0] if self.augmentations.augs else None
        return first if isinstance(first, Mosaic) else None

    def with_records(self, records: Sequence[dict[str, Any]]) -> "DetectionMapper":
        """A copy whose mosaics take images of these records."""
        other = copy(self)
        other.records = records
        return other

    @property
    def _of_one_image(self) -> T.AugmentationList:
        return self.augmentations if self.mosaic is None else T.AugmentationList(self.augmentations.augs[1:])

    def _draw_mosaic(self, record: dict[str, Any]) -> MosaicPlan | None:
        if self.mosaic is None:
            return None
        if self.records is None or "sem_seg_file_name" in record:
            lack = "has no records of other images" if self.records is None else "would need label maps of four images"
            raise UserError(f"Mosaic: the mapper {lack}; it is for boxes, in a loader of loradet's build_train_loader.")
        return self.mosaic.draw(record, self.records, self._size_of)

    def _size_of(self, record: dict[str, Any]) -> tuple[int, int]:
        if "height" not in record or "width" not in record:
            self._read_whole(record)  # which completes the record
        return record["height"], record["width"]

    @property
    def _resizes_first(self) -> bool:
        """Whether the first augmentation of an image is one that looks at its size alone."""
        first = self._of_one_image.augs[:1]
        return bool(first) and type(first[0]) in _RESIZES

    def _planned_input(self, record: dict[str, Any]) -> "_PlannedInput":
        height, width = self._size_of(record)
        return _PlannedInput(height, width, partial(self._read_resized, record))

    def _read_whole(self, record: dict[str, Any]) -> np.ndarray:
        name = record["file_name"]
        image = None if self.cache is None else self.cache.get(name)
        if image is not None and image.shape[:2] == (record.get("height"), record.get("width")):
            return image
        image = self.read_image(name, self.image_format)
        utils.check_image_size(record, image)
        if self.cache is not None:
            self.cache.put(name, image)
        return image

    def _read_resized(self, record: dict[str, Any], plan: T.ResizeTransform | None) -> np.ndarray:
        """The image as `plan` resizes it; as it is where there is no plan."""
        if plan is None:
            return self._read_whole(record)
        name, size = record["file_name"], (plan.new_h, plan.new_w)
        image = None if self.cache is None else self.cache.get(name)
        if image is not None and image.shape[:2] == size:
            return image
        if self.reduced_decode:
            image, (height, width) = read_reduced(name, size, self.image_format, self.intensity)
            utils.check_image_size(record, _stand_in(height, width))
        else:
            image = self._read_whole(record)
        if image.dtype != np.uint8:
            return plan.apply_image(image)
        image = resize(image, size, plan.interp)
        if self.cache is not None:
            self.cache.put(name, image)
        return image

    def _check_mosaic(self) -> None:
        if any(isinstance(one, Mosaic) for one in self.augmentations.augs[1:]):
            raise UserError("Mosaic has to be the first augmentation: what follows is done to the whole mosaic.")
        if self.mosaic is None:
            return
        if not self.is_train:
            raise UserError("Mosaic is for the mapper of training alone.")
        if self.use_instance_mask or self.use_keypoint or self.recompute_boxes or self.proposal_topk is not None:
            raise UserError("Mosaic takes boxes alone: no masks, keypoints or precomputed proposals.")

    def _check_reduced_decode(self) -> None:
        if not self.is_train:
            raise UserError("reduced_decode=True changes pixels slightly: it is for the mapper of training alone.")
        if not reduces_jpegs():
            raise UserError("reduced_decode=True needs simplejpeg, which is not installed: pip install simplejpeg.")
        if self.image_format not in ("RGB", "BGR", "L"):
            raise UserError(f"reduced_decode=True takes images of RGB, BGR or L, not of {self.image_format}.")
        if type(self).read_image is not DetectionMapper.read_image:
            raise UserError(f"reduced_decode=True: {type(self).__name__} reads images by a method of its own.")
        if not self._resizes_first:
            raise UserError(
                "reduced_decode=True: the first augmentation has to say how large images become; expected one of "
                f"{', '.join(kind.__name__ for kind in _RESIZES)} in front."
            )


class ImageStore(Protocol):
    """Images by file name, see `loradet.datasets.image_cache.ImageCache`."""

    def get(self, name: str) -> np.ndarray | None:
        """(H, W, C) uint8, not to be written to; None where it is not there."""

    def put(self, name: str, image: np.ndarray) -> None:
        """Keep an image, if there is a place for it."""


def intensity_of(mapper: Any) -> Intensity:
    """A mapper's rule of intensity; "auto" where it has none."""
    found = getattr(mapper, "intensity", None)
    return found if isinstance(found, Intensity) else Intensity()


class _Input(T.AugInput):
    """An image under augmentation that is resized fast, and to a pixel at least, however thin a strip it is."""

    def transform(self, tfm: Transform) -> None:
        if type(tfm) is TransformList:
            for one in tfm.transforms:
                self.transform(one)
            return
        if isinstance(tfm, T.ResizeTransform):
            _keep_a_pixel(tfm)
        is_known = type(tfm) is T.ResizeTransform and self.image.dtype == np.uint8
        if not is_known or self.image.shape[:2] != (tfm.h, tfm.w):
            super().transform(tfm)
            return
        self.image = resize(self.image, (tfm.new_h, tfm.new_w), tfm.interp)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)


class _PlannedInput(_Input):
    """An image that is read once its first resize is drawn, which needs no more of it than its size."""

    def __init__(self, height: int, width: int, read: Callable[[T.ResizeTransform | None], np.ndarray]):
        super().__init__(_stand_in(height, width))
        self._read: Callable[[T.ResizeTransform | None], np.ndarray] | None = read

    def transform(self, tfm: Transform) -> None:
        if self._read is None:
            super().transform(tfm)
            return
        read, self._read = self._read, None
        if type(tfm) is T.ResizeTransform:
            _keep_a_pixel(tfm)
            self.image = read(tfm)
        else:
            self.image = read(None)
            super().transform(tfm)


def _stand_in(height: int, width: int) -> np.ndarray:
    """(H, W, 3) without memory."""
    return np.broadcast_to(np.uint8(0), (height, width, 3))


def _keep_a_pixel(tfm: T.ResizeTransform) -> None:
    # In place: boxes are transformed by the same object afterwards.
    tfm.new_h, tfm.new_w = max(1, tfm.new_h), max(1, tfm.new_w)
