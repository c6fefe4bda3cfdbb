"""Images and boxes as a network of transformers takes them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.layers import ShapeSpec, move_device_like
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor

from loradet.detectors.detr.box_iou import to_centre_size
from loradet.detectors.detr.features import fixed_batch_size, pad_batch
from loradet.detectors.library.families import Family
from loradet.errors import UserError

Item = dict[str, Any]


@dataclass(frozen=True)
class Canvas:
    """The size that images are padded to, with pixels of the mean colour at the right and the bottom.

    These networks do not tell padding from image: it is part of what they see, and boxes are fractions of all of it.

    Attributes:
        divisor: both sides are multiples of it.
        is_square: both sides are equal.
        at_least: of both sides, pixels.
        pad_to: (height, width) of landscape images, for all batches; None: as large as the images need.
    """

    divisor: int
    is_square: bool = False
    at_least: int = 0
    pad_to: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        maps: Mapping[str, ShapeSpec],
        family: Family,
        *,
        is_own: bool,
        added_maps: int = 0,
        pad_to: Sequence[int] | None,
    ) -> "Canvas":
        """What a backbone and the decoder behind it need; `added_maps` as of `Family.added_maps`.

        Raises:
            UserError: `pad_to` is not two sizes.
        """
        if pad_to is not None and (len(pad_to) != 2 or min(pad_to) < 1):
            raise UserError(f"pad_to={list(pad_to)}: expected (height, width) in pixels, or None.")
        coarsest = max(shape.stride for shape in maps.values()) if family.maps == "double" else 1
        if family.maps == "double" and len({shape.stride for shape in maps.values()}) < len(maps):
            coarsest *= 2  # DEIMv2's own ViT: maps of one stride are resized to a pyramid around it
        coarsest *= 2**added_maps
        return cls(
            divisor=math.lcm(max(backbone.size_divisibility, 1), coarsest),
            is_square=is_own and family.is_square,
            at_least=backbone.padding_constraints.get("square_size", 0),
            pad_to=None if pad_to is None else (int(pad_to[0]), int(pad_to[1])),
        )

    def size(self, sizes: Sequence[tuple[int, int]], names: Sequence[str]) -> tuple[int, int]:
        """(height, width) for a batch of images.

        Args:
            sizes: (height, width) of each.
            names: of each, for errors.

        Raises:
            UserError: one is larger than `pad_to`.
        """
        if self.pad_to is None:
            height, width = (max(*sides, self.at_least) for sides in zip(*sizes))
        else:
            height, width = fixed_batch_size(sizes, self.pad_to, names)
        if self.is_square:
            height = width = max(height, width)
        return -(-height // self.divisor) * self.divisor, -(-width // self.divisor) * self.divisor

    def batch(self, items: Sequence[Item], mean: Tensor, std: Tensor) -> ImageList:
        """Images, normalised and padded to one size.

        Raises:
            UserError: as of `size`.
        """
        images = [move_device_like(item["image"], mean) for item in items]
        images = ImageList.from_tensors([(image - mean) / std for image in images])
        return pad_batch(images, self.size(images.image_sizes, names_of(items)))

    def groups(self, items: Sequence[Item]) -> list[list[int]]:
        """Places of the images that have one size when each is padded for itself.

        What is predicted in an image then hangs on no other image of the batch.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for place, (item, name) in enumerate(zip(items, names_of(items))):
            height, width = item["image"].shape[-2:]
            groups.setdefault(self.size([(height, width)], [name]), []).append(place)
        return list(groups.values())


def names_of(items: Sequence[Item]) -> list[str]:
    """File names of the images, for errors."""
    return [str(item.get("file_name", "an image")) for item in items]


def labels_of(
    items: Sequence[Item], canvas: tuple[int, int], num_classes: int, device: torch.device
) -> list[dict[str, Tensor]]:
    """Ground truth of a batch as the library takes it.

    Args:
        items: with `instances`: `gt_boxes` (XYXY, pixels of the image) and `gt_classes`.
        canvas: (height, width) of the padded batch.

    Returns:
        A dict per image: `class_labels` (M,) and `boxes` (M, 4), (centre x, centre y, width, height) as fractions of
        the canvas.

    Raises:
        UserError: an image without `instances`, a class out of range, or boxes that are not finite.
    """
    height, width = canvas
    sides = torch.tensor([width, height, width, height], dtype=torch.float32, device=device)
    labels = []
    for item, name in zip(items, names_of(items)):
        if "instances" not in item:
            raise UserError(
                f"Training needs `instances` with every image; the input {name} has only {', '.join(item)}. Use "
                "DatasetMapper(is_train=True), or call model.eval()."
            )
        classes, boxes = item["instances"].gt_classes, item["instances"].gt_boxes.tensor
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
            raise UserError(
                f"gt_classes of {name} are in {int(classes.min())}..{int(classes.max())}, expected "
                f"0..{num_classes - 1}: contiguous ids, not those of the annotation file."
            )
        if not boxes.isfinite().all():
            raise UserError(f"gt_boxes of {name} hold NaN or infinity.")
        boxes = to_centre_size(boxes.to(device, torch.float32) / sides)
        labels.append({"class_labels": classes.to(device), "boxes": boxes})
    return labels
