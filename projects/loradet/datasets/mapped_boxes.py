"""All boxes of an image through its transforms at once, with the numbers that Detectron2 gets one by one."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances
from fvcore.transforms.transform import Transform, TransformList

# They compute each coordinate by itself, so that its last digit does not depend on how many there are.
_BY_COORDINATE = (
    T.NoOpTransform,
    T.ResizeTransform,
    T.HFlipTransform,
    T.VFlipTransform,
    T.CropTransform,
    T.PadTransform,
    T.BlendTransform,
    T.ColorTransform,
)


def map_boxes(
    annotations: Sequence[dict[str, Any]], transforms: TransformList, image_size: tuple[int, int]
) -> Instances | None:
    """Ground truth of an image, crowds left out, clipped to the image; empty boxes are still in it.

    Args:
        annotations: Detectron2's, of which masks and keypoints are not looked at.
        transforms: what was done to the image.
        image_size: (height, width) after them.

    Returns:
        `gt_boxes` (N, 4) and `gt_classes` (N,). None where Detectron2 has to do it: of other transforms, and of boxes
        that are not lists of four floats in one of the usual two modes.
    """
    kept = [annotation for annotation in annotations if not annotation.get("iscrowd", 0)]
    corners = _corners(kept) if kept and all(type(one) in _BY_COORDINATE for one in _flat(transforms)) else None
    if corners is None:
        return None
    height, width = image_size
    boxes = np.clip(transforms.apply_box(corners), 0, [width, height, width, height])
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(torch.from_numpy(boxes.astype(np.float32)))
    instances.gt_classes = torch.tensor([int(one["category_id"]) for one in kept], dtype=torch.int64)
    return instances


def _flat(transforms: TransformList) -> Iterator[Transform]:
    for one in transforms.transforms:
        if type(one) is TransformList:
            yield from _flat(one)
        else:
            yield one


def _corners(annotations: Sequence[dict[str, Any]]) -> np.ndarray | None:
    """(N, 4) float64 XYXY."""
    modes = {annotation["bbox_mode"] for annotation in annotations}
    boxes = [annotation["bbox"] for annotation in annotations]
    if not all(isinstance(box, (list, tuple)) and [type(v) for v in box] == [float] * 4 for box in boxes):
        return None
    if modes == {BoxMode.XYXY_ABS}:
        return np.array(boxes, np.float64)
    if modes != {BoxMode.XYWH_ABS}:
        return None
    corners = np.array(boxes, np.float32)  # as `BoxMode.convert` has floats of lists
    corners[:, 2:] += corners[:, :2]
    return corners.astype(np.float64)
