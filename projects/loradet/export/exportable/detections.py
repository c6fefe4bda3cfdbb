"""Detections in tensors of fixed shape: suppression, the best of them, clipping, for torch.export and for ONNX."""

from typing import Any

import torch
import torch.nn.functional as F
import torchvision.ops  # noqa: F401  (registers torchvision::nms)
from torch import Tensor

ABSENT = -1.0  # the score of what is no detection


def suppress(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    *,
    number: int,
    iou: float,
    above: float,
    for_onnx: bool,
    absent: float = ABSENT,
) -> Tensor:
    """Scores with `absent` in place of those that are not above a threshold, and of those that NMS suppresses.

    Args:
        boxes: (N, M, 4) XYXY.
        scores: (N, M).
        groups: (N, M) int64, boxes of different groups do not suppress each other.
        number: of groups.
        iou: boxes that overlap a better one by more are suppressed.
        above: scores that are not larger are left out.
        for_onnx: by ONNX's operator in place of torchvision's.
        absent: less than `above`, or than every score.

    Returns:
        (N, M).
    """
    if for_onnx:
        rows = torch.arange(number, device=groups.device)[:, None]
        by_group = torch.where(groups[:, None] == rows, scores[:, None], absent)
        kept = _Kept.apply(boxes, by_group, iou, max(above, absent / 2)).amax(1) > 0
        return torch.where(kept, scores, absent)
    count, total = scores.shape[1], scores.shape[0] * scores.shape[1]
    place = (scores > above).flatten().nonzero().squeeze(1)
    # One NMS for all images and groups: each group of boxes lies apart from the others. In float64, so that large
    # offsets cost no precision.
    image = torch.arange(scores.shape[0], device=scores.device)[:, None]
    group = (groups + image * number).flatten()[place]
    boxes = boxes.flatten(0, 1).double()
    low, high = boxes.min(), boxes.max()
    apart = boxes[place] - low + (group * (high - low + 1.0))[:, None]
    # Two more boxes, apart from all: the exported operator promises two survivors at least.
    corner = torch.tensor([[-4.0], [-2.0]], dtype=torch.float64, device=boxes.device)
    apart = torch.cat([apart, corner + corner.new_tensor([[0.0, 0.0, 1.0, 1.0]])])
    place = torch.cat([place, place.new_full((2,), total)])
    ranks = torch.cat([scores.flatten(), scores.new_full((1,), absent)])[place].double()
    survivors = place[torch.ops.torchvision.nms(apart, ranks, iou)]
    kept = torch.zeros(total + 1, dtype=torch.bool, device=boxes.device).index_fill(0, survivors, True)
    return torch.where(kept[:total].unflatten(0, (-1, count)), scores, absent)


def suppress_by_class(boxes: Tensor, scores: Tensor, *, iou: float, above: float, for_onnx: bool) -> Tensor:
    """`suppress` where every class scores, and may place, all boxes.

    Args:
        boxes: (N, C, P, 4), or (N, 1, P, 4) where they are the same for all classes.
        scores: (N, C, P).
        iou, above, for_onnx: as of `suppress`.

    Returns:
        (N, C, P).
    """
    classes, count = scores.shape[1:]
    if for_onnx:
        above = max(above, ABSENT / 2)
        if boxes.shape[1] == 1:
            kept = _Kept.apply(boxes[:, 0], scores, iou, above)
        else:
            kept = _Kept.apply(boxes.flatten(0, 1), scores.flatten(0, 1)[:, None], iou, above)
            kept = kept[:, 0].unflatten(0, (-1, int(classes)))
        return torch.where(kept > 0, scores, ABSENT)
    groups = torch.arange(classes, device=scores.device).repeat_interleave(count).expand(scores.shape[0], -1)
    boxes = boxes.expand(-1, classes, -1, -1).flatten(1, 2)
    kept = suppress(boxes, scores.flatten(1), groups, number=classes, iou=iou, above=above, for_onnx=False)
    return kept.unflatten(1, (classes, count))


def best(scores: Tensor, limit: int, *, for_onnx: bool, absent: float = ABSENT) -> tuple[Tensor, Tensor]:
    """The K best scores of each row (N, M), and where they are: both (N, K).

    For ONNX, K is `limit` or M, whichever is less. Else it is `limit` whatever M is: scores of `absent` fill up, and
    their place is 0.
    """
    if for_onnx:
        return _Best.apply(scores, limit)
    scores, place = F.pad(scores, (0, limit), value=absent).topk(limit, dim=1)
    return scores, torch.where(scores > absent, place, 0)


def take(boxes: Tensor, scores: Tensor, classes: Tensor, limit: int, absent: float = ABSENT) -> tuple[Tensor, ...]:
    """The `limit` best by score, filled up with the score `absent`.

    Args:
        boxes, scores, classes: (N, M, 4), (N, M) and (N, M).

    Returns:
        The same with `limit` in place of M.
    """
    boxes, classes = F.pad(boxes, (0, 0, 0, limit)), F.pad(classes, (0, limit))
    scores, order = F.pad(scores, (0, limit), value=absent).topk(limit, dim=1)
    return boxes.gather(1, order[..., None].expand(-1, -1, 4)), scores, classes.gather(1, order)


def clip(boxes: Tensor, height: Any, width: Any) -> Tensor:
    """Boxes (..., 4) to lie within an image.

    Args:
        height, width: numbers, or tensors that fit to (..., 1).
    """
    x, y = boxes[..., 0::2], boxes[..., 1::2]
    if isinstance(height, Tensor) and height.dim():
        zero = x.new_zeros(())
        x, y = torch.minimum(torch.maximum(x, zero), width), torch.minimum(torch.maximum(y, zero), height)
    else:
        x, y = x.clamp(min=0, max=width), y.clamp(min=0, max=height)
    return torch.stack((x, y), dim=-1).flatten(-2)


def finish(boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clipped detections (N, D), by falling score, as a file gives them: none without area, zeros at the end.

    Returns:
        Boxes (N, D, 4), scores (N, D), classes (N, D) int64, counts (N,) int64.
    """
    # A box outside of the image has no area left; Detectron2 drops it after the limit of detections.
    has_area = ((boxes[..., 2:] - boxes[..., :2]) > 0).all(dim=-1)
    boxes, scores, classes = take(boxes, torch.where(has_area, scores, ABSENT), classes, int(scores.shape[1]))
    found = scores >= 0
    return boxes * found[..., None], scores * found, classes * found, found.sum(dim=1)


class _Best(torch.autograd.Function):
    """topk of as many as there are, `limit` at most: TorchScript fixes the number that it sees."""

    @staticmethod
    def forward(_: Any, scores: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        """(N, M) to (N, K) scores and places."""
        return scores.topk(min(limit, scores.shape[1]), dim=1)

    @staticmethod
    def symbolic(g: Any, scores: Any, limit: int) -> Any:
        """The same as nodes of ONNX."""
        one = g.op("Constant", value_t=torch.tensor([1]))
        count = g.op("Gather", g.op("Shape", scores), one, axis_i=0)
        number = g.op("Min", count, g.op("Constant", value_t=torch.tensor([limit])))
        best, place = g.op("TopK", scores, number, outputs=2)
        best.setType(_open(scores, 2))
        place.setType(_open(scores, 2).with_dtype(torch.int64))
        return best, place


class _Kept(torch.autograd.Function):
    """What NMS keeps, 1 or 0: ONNX's operator knows batches and classes, torchvision's does not."""

    @staticmethod
    def forward(_: Any, boxes: Tensor, scores: Tensor, iou: float, above: float) -> Tensor:
        """
        Args:
            boxes: (B, M, 4).
            scores: (B, G, M).
            iou: boxes that overlap a better one of their group by more are suppressed.
            above: scores that are not larger are left out.

        Returns:
            (B, G, M) float32.
        """
        kept = torch.zeros_like(scores)
        for batch, group in torch.ones(scores.shape[:2]).nonzero().tolist():
            place = (scores[batch, group] > above).nonzero().squeeze(1)
            survivors = torch.ops.torchvision.nms(boxes[batch, place], scores[batch, group, place], iou)
            kept[batch, group, place[survivors]] = 1
        return kept

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, iou: float, above: float) -> Any:
        """The same as nodes of ONNX."""

        def constant(value: Any, dtype: torch.dtype) -> Any:
            return g.op("Constant", value_t=torch.tensor([value], dtype=dtype))

        shape = g.op("Constant", value_t=torch.tensor([0, -1, 4]))  # of which OpenVINO wants to know the last
        boxes = g.op("Reshape", boxes, shape)
        limit = constant(torch.iinfo(torch.int32).max, torch.int64)
        thresholds = constant(iou, torch.float32), constant(above, torch.float32)
        survivors = g.op("NonMaxSuppression", boxes, scores, limit, *thresholds)  # (S, 3): batch, group, box
        zeros = g.op("ConstantOfShape", g.op("Shape", scores), value_t=torch.zeros(1))
        count = g.op("Gather", g.op("Shape", survivors), constant(0, torch.int64), axis_i=0)
        kept = g.op("ScatterND", zeros, survivors, g.op("ConstantOfShape", count, value_t=torch.ones(1)))
        kept.setType(_open(scores, 3))
        return kept


def _open(value: Any, dims: int) -> Any:
    """The type of a node's value without its sizes, which are the example's: what follows would take them for fixed."""
    return value.type().with_sizes([None] * dims)
