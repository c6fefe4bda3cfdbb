"""Axis-aligned boxes, their formats, and the overlap between them."""

from collections.abc import Iterator
from enum import IntEnum, unique
from typing import TypeVar

import numpy as np
import torch
from detectron2._subset import ADVICE

AnyBox = TypeVar("AnyBox", list, tuple, np.ndarray, torch.Tensor)


@unique
class BoxMode(IntEnum):
    """How the numbers of a box are meant; the values are part of dataset files and must not change."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box: AnyBox, from_mode: "BoxMode", to_mode: "BoxMode") -> AnyBox:
        """Convert between XYXY_ABS and XYWH_ABS; type and dtype of `box` are kept.

        Args:
            box: four numbers in a list or tuple, or an array or tensor (..., 4). Never changed in place.
                Floats of a list or tuple pass through float32.

        Raises:
            AssertionError: not four numbers per box, or a relative mode, which needs an image size.
            NotImplementedError: a rotated mode.
        """
        if from_mode == to_mode:
            return box
        sequence = isinstance(box, (list, tuple))
        if sequence:
            assert len(box) in (4, 5), f"A box given as a list or tuple has 4 numbers, got {len(box)}: {box}"
            tensor = torch.tensor(box)
        elif isinstance(box, np.ndarray):
            tensor = torch.from_numpy(box.copy())
        else:
            tensor = box.clone()

        relative = (BoxMode.XYXY_REL, BoxMode.XYWH_REL)
        assert from_mode not in relative and to_mode not in relative, (
            f"Cannot convert {BoxMode(from_mode).name} to {BoxMode(to_mode).name}: multiply relative boxes "
            "by the image size first."
        )
        if BoxMode.XYWHA_ABS in (from_mode, to_mode):
            raise NotImplementedError(f"The rotated box mode XYWHA_ABS {ADVICE}")
        assert tensor.shape[-1] == 4, f"Boxes have 4 numbers each, got shape {tuple(tensor.shape)}."

        # Only two absolute modes are left, and they differ in the meaning of the last two numbers.
        if from_mode == BoxMode.XYWH_ABS:
            tensor[..., 2:] += tensor[..., :2]
        else:
            tensor[..., 2:] -= tensor[..., :2]
        if sequence:
            return type(box)(tensor.tolist())
        return tensor.numpy() if isinstance(box, np.ndarray) else tensor


class Boxes:
    """N boxes (x1, y1, x2, y2) in absolute pixels, as a float32 tensor (N, 4) in `tensor`."""

    def __init__(self, tensor: torch.Tensor) -> None:
        """
        Args:
            tensor: (N, 4) numbers: a tensor, or anything `torch.as_tensor` takes. Empty input becomes (0, 4).

        Raises:
            AssertionError: another shape.
        """
        tensor = torch.as_tensor(tensor, dtype=torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        assert tensor.dim() == 2 and tensor.shape[1] == 4, (
            f"Boxes are given as (N, 4), got shape {tuple(tensor.shape)}."
        )
        self.tensor = tensor

    def clone(self) -> "Boxes":
        """A copy that shares no memory."""
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device | str) -> "Boxes":
        """The same boxes on another device."""
        return Boxes(self.tensor.to(device=device))

    def area(self) -> torch.Tensor:
        """Areas (N,) in square pixels; negative where exactly one side is inverted."""
        width, height = (self.tensor[:, 2:] - self.tensor[:, :2]).unbind(1)
        return width * height

    def clip(self, box_size: tuple[int, int]) -> None:
        """Limit the coordinates, in place, to an image of `box_size` = (height, width).

        Raises:
            AssertionError: a coordinate is NaN or infinite.
        """
        assert torch.isfinite(self.tensor).all(), "Boxes hold NaN or infinite coordinates; cannot clip them."
        height, width = box_size
        x = self.tensor[:, 0::2].clamp(min=0, max=width)
        y = self.tensor[:, 1::2].clamp(min=0, max=height)
        self.tensor = torch.stack((x, y), dim=2).flatten(1)

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """Mask (N,) of the boxes with both sides longer than `threshold` pixels."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def __getitem__(self, item: int | slice | torch.Tensor) -> "Boxes":
        """Boxes by an index, a slice, an index tensor or a mask; a single index gives one box, still (1, 4).

        The result may share memory with these boxes.
        """
        if isinstance(item, int):
            return Boxes(self.tensor[item].unsqueeze(0))
        picked = self.tensor[item]
        assert picked.dim() == 2, f"Indexing boxes with {item} does not give a list of boxes."
        return Boxes(picked)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> torch.Tensor:
        """Mask (N,) of the boxes inside (height, width), or `boundary_threshold` pixels past it at most."""
        height, width = box_size
        slack = boundary_threshold
        x1, y1, x2, y2 = self.tensor.unbind(1)
        return (x1 >= -slack) & (y1 >= -slack) & (x2 < width + slack) & (y2 < height + slack)

    def get_centers(self) -> torch.Tensor:
        """Centres (N, 2) as (x, y)."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: list["Boxes"]) -> "Boxes":
        """All boxes of a list, in order; an empty list gives no boxes."""
        assert all(isinstance(boxes, Boxes) for boxes in boxes_list), "Boxes.cat takes a list of Boxes."
        if not boxes_list:
            return cls(torch.empty(0, 4))
        return cls(torch.cat([boxes.tensor for boxes in boxes_list], dim=0))

    @property
    def device(self) -> torch.device:
        """Device of the coordinates."""
        return self.tensor.device

    def __iter__(self) -> Iterator[torch.Tensor]:
        """One tensor (4,) per box."""
        yield from self.tensor


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Overlap areas (N, M) of N and M boxes."""
    return _intersection(boxes1.tensor[:, None], boxes2.tensor)


def _intersection(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    # Side by side and in place: crowded images make N x M large.
    sides = []
    for low, high in ((0, 2), (1, 3)):
        side = torch.min(first[..., high], second[..., high])
        side -= torch.max(first[..., low], second[..., low])
        sides.append(side.clamp_(min=0))
    width, height = sides
    return width.mul_(height)


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Intersection over union (N, M); 0 where boxes do not overlap, even without area."""
    inter = pairwise_intersection(boxes1, boxes2)
    union = boxes1.area()[:, None] + boxes2.area() - inter
    return _ratio(inter, union)


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Intersection over the area of `boxes2` (N, M); 0 where boxes do not overlap."""
    inter = pairwise_intersection(boxes1, boxes2)
    return _ratio(inter, boxes2.area().expand_as(inter))


def _ratio(inter: torch.Tensor, area: torch.Tensor) -> torch.Tensor:
    return torch.where(inter > 0, inter / area, torch.zeros_like(inter))


def pairwise_point_box_distance(points: torch.Tensor, boxes: Boxes) -> torch.Tensor:
    """Signed distances (N, M, 4) of N points (x, y) to the left, top, right and bottom side of M boxes.

    All four are positive where the point lies inside the box.
    """
    x1y1, x2y2 = boxes.tensor[None, :, :2], boxes.tensor[None, :, 2:]
    points = points[:, None]
    return torch.cat((points - x1y1, x2y2 - points), dim=2)


def matched_pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Intersection over union (N,) of the i-th box of one list with the i-th of the other."""
    assert len(boxes1) == len(boxes2), f"Box lists differ in length: {len(boxes1)} and {len(boxes2)}."
    inter = _intersection(boxes1.tensor, boxes2.tensor)
    return _ratio(inter, boxes1.area() + boxes2.area() - inter)
