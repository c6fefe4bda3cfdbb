"""From a record of a data set to the input of a model."""

import logging
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from detectron2._subset import ADVICE
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform

logger = logging.getLogger(__name__)


class DatasetMapper:
    """Reads the image of a record, augments it, and turns annotations into `Instances`.

    Args:
        is_train: whether annotations are kept.
        augmentations: augmentations or transforms, applied in sequence.
        image_format: such as "BGR" or "RGB", see `detection_utils.read_image`.
        use_instance_mask, use_keypoint, keypoint_hflip_indices, precomputed_proposal_topk, recompute_boxes:
            of masks, keypoints and precomputed proposals, which the embedded Detectron2 does not have.
        instance_mask_format: of masks; no effect without them.

    Raises:
        NotImplementedError: one of the unsupported options is asked for.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation | Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices: np.ndarray | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
    ):
        asked = {
            "use_instance_mask (masks)": use_instance_mask,
            "use_keypoint (keypoints)": use_keypoint,
            "keypoint_hflip_indices (keypoints)": keypoint_hflip_indices is not None,
            "precomputed_proposal_topk (precomputed proposals)": precomputed_proposal_topk is not None,
            "recompute_boxes (boxes from masks)": recompute_boxes,
        }
        missing = [name for name, wanted in asked.items() if wanted]
        if missing:
            raise NotImplementedError(f"DatasetMapper: {', '.join(missing)} {ADVICE}")
        logger.info("Augmentations in %s: %s", "training" if is_train else "inference", augmentations)
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        # All off, as was checked above; subclasses that were written for Detectron2 ask for them.
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.use_keypoint = use_keypoint
        self.keypoint_hflip_indices = keypoint_hflip_indices
        self.proposal_topk = precomputed_proposal_topk
        self.recompute_boxes = recompute_boxes

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one record, which is left as it is.

        Args:
            dataset_dict: with "file_name", and "annotations" in training. "sem_seg_file_name" may name a label map
                of the image's size, an image file of one channel.

        Returns:
            The record with "image", uint8 (C, H, W), and in training "instances" in place of "annotations":
            `gt_boxes` clipped to the image and `gt_classes`, without crowds and empty boxes. In place of
            "sem_seg_file_name" it has "sem_seg", int64 (H, W).

        Raises:
            OSError: the image cannot be read; the message has its file and image id.
            SizeMismatchError: the image's size is not that of the record.
        """
        dataset_dict = deepcopy(dataset_dict)
        image = self._read(dataset_dict)
        utils.check_image_size(dataset_dict, image)
        labels = None
        if "sem_seg_file_name" in dataset_dict:
            labels = utils.read_image(dataset_dict.pop("sem_seg_file_name"), "L")[:, :, 0]
        aug_input = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        planes = image.transpose(2, 0, 1) if image.ndim == 3 else image[None]
        # The array may be read-only (pillow's memory) or a view with negative strides (BGR, flips).
        dataset_dict["image"] = torch.from_numpy(np.array(planes, order="C"))
        if labels is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(aug_input.sem_seg.astype(np.int64))
        if not self.is_train:
            dataset_dict.pop("annotations", None)
        elif "annotations" in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, image.shape[:2])
        return dataset_dict

    def _read(self, dataset_dict: dict[str, Any]) -> np.ndarray:
        try:
            return utils.read_image(dataset_dict["file_name"], format=self.image_format)
        except OSError as error:
            raise type(error)(f"{error} (image_id {dataset_dict.get('image_id')})") from error.__cause__

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: Transform, image_shape: tuple[int, int]
    ) -> None:
        """Put "instances" in place of "annotations"; a subclass may make them otherwise.

        Args:
            dataset_dict: a copy of the record, changed in place.
            transforms: what was done to the image.
            image_shape: (height, width) after the transforms.
        """
        kept = []
        for annotation in dataset_dict.pop("annotations"):
            if annotation.get("iscrowd", 0):
                continue
            boxes_only = {k: v for k, v in annotation.items() if k not in ("segmentation", "keypoints")}
            kept.append(utils.transform_instance_annotations(boxes_only, transforms, image_shape))
        instances = utils.annotations_to_instances(kept, image_shape, mask_format=self.instance_mask_format)
        dataset_dict["instances"] = utils.filter_empty_instances(instances)
