"""From a record of a data set to the input of a model, for images of any depth."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform, TransformList

from loradet.datasets.images.intensity import Intensity
from loradet.datasets.images.reading import read_image
from loradet.datasets.images.resizing import resize, to_planes


class DetectionMapper(DatasetMapper):
    """Detectron2's `DatasetMapper` with the project's own reading and resizing of images.

    Images of eight bits are resized by `loradet.datasets.images.resizing`, which a few of Pillow's values are one level
    from, and strips keep a pixel.

    Subclasses may override `read_image` and, as of Detectron2's, `_transform_annotations`.

    Args:
        is_train, augmentations, image_format, use_instance_mask, use_keypoint, instance_mask_format,
            keypoint_hflip_indices, precomputed_proposal_topk, recompute_boxes: as Detectron2's.
        intensity: how values of image files become 0..255: "auto", "full_range", [low, high] or "percentile:1,99",
            see `loradet.datasets.images.intensity.Intensity`.

    Raises:
        UserError: `intensity` is no rule.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation | Transform],
        image_format: str,
        intensity: str | Sequence[float] = "auto",
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
        image = self.read_image(dataset_dict["file_name"], self.image_format)
        utils.check_image_size(dataset_dict, image)
        labels = None
        if "sem_seg_file_name" in dataset_dict:
            labels = utils.read_image(dataset_dict.pop("sem_seg_file_name"), "L")[:, :, 0]
        aug_input = _Input(image, sem_seg=labels)
        transforms = self.augmentations(aug_input)
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
            # In place: boxes are transformed by the same object afterwards.
            tfm.new_h, tfm.new_w = max(1, tfm.new_h), max(1, tfm.new_w)
        is_known = type(tfm) is T.ResizeTransform and self.image.dtype == np.uint8
        if not is_known or self.image.shape[:2] != (tfm.h, tfm.w):
            super().transform(tfm)
            return
        self.image = resize(self.image, (tfm.new_h, tfm.new_w), tfm.interp)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)
