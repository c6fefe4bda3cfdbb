"""From decoded anchors to the few proposals that go on, and ground truth among them."""

import math

import torch
from detectron2.layers import batched_nms, cat
from detectron2.structures import Boxes, Instances

__all__ = [
    "add_ground_truth_to_proposals",
    "add_ground_truth_to_proposals_single_image",
    "find_top_rpn_proposals",
]

# Ground truth enters as a proposal with an objectness of all but 1.
_SURE = 1.0 - 1e-10
_GROUND_TRUTH_LOGIT = math.log(_SURE / (1 - _SURE))


def find_top_rpn_proposals(
    proposals: list[torch.Tensor],
    pred_objectness_logits: list[torch.Tensor],
    image_sizes: list[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """The best proposals of each image: the top of each level, clipped, after NMS within the levels.

    Args:
        proposals: boxes per level (N, R_l, 4).
        pred_objectness_logits: per level (N, R_l).
        image_sizes: (height, width) of each of the N images.
        nms_thresh: IoU above which NMS suppresses.
        pre_nms_topk: boxes per level and image that enter NMS.
        post_nms_topk: boxes per image, over all levels, that are kept.
        min_box_size: clipped boxes with a side of this many pixels or less are dropped.
        training: whether NaN and infinity are an error; else such boxes are dropped.

    Returns:
        Per image, `proposal_boxes` and `objectness_logits` by falling logit.

    Raises:
        FloatingPointError: a box or a logit is not finite, in training.
    """
    top_boxes, top_logits, top_levels = [], [], []
    for level, (boxes, logits) in enumerate(zip(proposals, pred_objectness_logits)):
        count = int(min(pre_nms_topk, logits.shape[1]))
        best, order = logits.topk(count, dim=1)
        top_logits.append(best)
        top_boxes.append(boxes.gather(1, order[..., None].expand(-1, -1, boxes.shape[-1])))
        top_levels.append(torch.full((count,), level, dtype=torch.int64, device=logits.device))
    boxes, logits, levels = cat(top_boxes, dim=1), cat(top_logits, dim=1), cat(top_levels)

    finite = torch.isfinite(boxes).all(dim=2) & torch.isfinite(logits)
    if training and not finite.all():
        raise FloatingPointError(
            "The proposal generator predicts boxes or logits that are NaN or infinite: training has diverged. "
            "Lower the learning rate, or warm up longer."
        )
    results = []
    for of_image, size in enumerate(image_sizes):
        valid = finite[of_image]
        image_boxes = Boxes(boxes[of_image][valid])
        image_boxes.clip(size)
        candidates = Instances(
            size,
            proposal_boxes=image_boxes,
            objectness_logits=logits[of_image][valid],
            level=levels[valid],
        )
        candidates = candidates[image_boxes.nonempty(threshold=min_box_size)]
        keep = batched_nms(candidates.proposal_boxes.tensor, candidates.objectness_logits, candidates.level, nms_thresh)
        candidates.remove("level")
        results.append(candidates[keep[: int(min(post_nms_topk, len(keep)))]])
    return results


def add_ground_truth_to_proposals(gt: list[Instances] | list[Boxes], proposals: list[Instances]) -> list[Instances]:
    """Proposals of each image with its ground truth behind them, so that the second stage sees good boxes.

    Args:
        gt: per image, `gt_boxes` (with other ground-truth fields or without), or the boxes themselves.
        proposals: per image, `proposal_boxes` and `objectness_logits`.
    """
    assert len(gt) == len(proposals), f"Ground truth is given for {len(gt)} images, proposals for {len(proposals)}."
    return [add_ground_truth_to_proposals_single_image(*pair) for pair in zip(gt, proposals)]


def add_ground_truth_to_proposals_single_image(gt: Instances | Boxes, proposals: Instances) -> Instances:
    """As `add_ground_truth_to_proposals`, for one image.

    Raises:
        AssertionError: the proposals have a field that ground truth does not have.
    """
    if isinstance(gt, Boxes):
        gt = Instances(proposals.image_size, gt_boxes=gt)
    boxes = gt.gt_boxes
    addition = Instances(proposals.image_size, **gt.get_fields())
    addition.proposal_boxes = boxes
    addition.objectness_logits = boxes.tensor.new_full((len(boxes),), _GROUND_TRUTH_LOGIT)
    lacking = [name for name in proposals.get_fields() if not addition.has(name)]
    assert not lacking, f"Proposals have fields that ground truth cannot fill: {', '.join(lacking)}."
    return Instances.cat([proposals, addition])
