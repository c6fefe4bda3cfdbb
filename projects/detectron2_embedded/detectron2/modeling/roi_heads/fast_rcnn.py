"""Classes and boxes from box features, and detections from those: https://arxiv.org/abs/1504.08083."""

from collections.abc import Callable, Mapping

import torch
from detectron2.layers import ShapeSpec, batched_nms, cat, cross_entropy
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn import functional as F

__all__ = ["FastRCNNOutputLayers", "fast_rcnn_inference"]

Predictions = tuple[torch.Tensor, torch.Tensor]


def fast_rcnn_inference(
    boxes: list[torch.Tensor],
    scores: list[torch.Tensor],
    image_shapes: list[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[torch.Tensor]]:
    """Detections of each image: clipped, scored above the threshold, after NMS within the classes.

    Args:
        boxes: per image (R, K * 4), a box for each class, or (R, 4), one for all.
        scores: per image (R, K + 1), the last column that of the background.
        image_shapes: (height, width) of each image.
        score_thresh: a box and class with this score or less is dropped.
        nms_thresh: IoU above which NMS suppresses.
        topk_per_image: largest number of detections; negative for no limit.

    Returns:
        Per image, `pred_boxes`, `scores` and `pred_classes` by falling score; and for each of them the row of
        `boxes` that it comes from.
    """
    results = [
        fast_rcnn_inference_single_image(*of_image, score_thresh, nms_thresh, topk_per_image)
        for of_image in zip(boxes, scores, image_shapes)
    ]
    return [detections for detections, _ in results], [rows for _, rows in results]


def fast_rcnn_inference_single_image(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[Instances, torch.Tensor]:
    """As `fast_rcnn_inference`, for one image. Rows that are NaN or infinite are dropped."""
    finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
    row, class_index = ((scores[:, :-1] > score_thresh) & finite[:, None]).nonzero(as_tuple=True)
    per_class = boxes.unflatten(1, (-1, 4))
    own_box = class_index if per_class.shape[1] > 1 else torch.zeros_like(class_index)
    candidates = Boxes(per_class[row, own_box])
    candidates.clip(image_shape)
    candidate_scores = scores[row, class_index]

    keep = batched_nms(candidates.tensor, candidate_scores, class_index, nms_thresh)
    if topk_per_image >= 0:
        keep = keep[:topk_per_image]
    detections = Instances(
        image_shape, pred_boxes=candidates[keep], scores=candidate_scores[keep], pred_classes=class_index[keep]
    )
    return detections, row[keep]


def _log_classification_stats(pred_logits: torch.Tensor, gt_classes: torch.Tensor, prefix: str = "fast_rcnn") -> None:
    """Put the accuracy over all boxes, and over those with an object, into the event storage.

    Args:
        pred_logits: (R, K + 1), the last column that of the background.
        gt_classes: (R,), in [0, K].
    """
    if gt_classes.numel() == 0:
        return
    background = pred_logits.shape[1] - 1
    predicted = pred_logits.argmax(dim=1)
    right = predicted == gt_classes
    foreground = (gt_classes >= 0) & (gt_classes < background)
    counts = torch.stack(
        [right.sum(), foreground.sum(), (right & foreground).sum(), ((predicted == background) & foreground).sum()]
    )
    num_right, num_foreground, foreground_right, missed = counts.tolist()

    storage = get_event_storage()
    storage.put_scalar(f"{prefix}/cls_accuracy", num_right / gt_classes.numel())
    if num_foreground > 0:
        storage.put_scalar(f"{prefix}/fg_cls_accuracy", foreground_right / num_foreground)
        storage.put_scalar(f"{prefix}/false_negative", missed / num_foreground)


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers on the features of a box: class logits, and deltas from the proposal to the object.

    Shapes: R boxes of all images, K classes, C = 1 or K regressed boxes per box.
    """

    def __init__(
        self,
        input_shape: ShapeSpec | int,
        *,
        box2box_transform: Box2BoxTransform,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | Mapping[str, float] = 1.0,
        use_fed_loss: bool = False,
        use_sigmoid_ce: bool = False,
        get_fed_loss_cls_weights: Callable[[], torch.Tensor] | None = None,
        fed_loss_num_classes: int = 50,
    ) -> None:
        """
        Args:
            input_shape: of the features of one box.
            num_classes: K, without the background.
            test_score_thresh, test_nms_thresh, test_topk_per_image: see `fast_rcnn_inference`.
            cls_agnostic_bbox_reg: one box for all classes, instead of a box for each.
            smooth_l1_beta, box_reg_loss_type: see `_dense_box_regression_loss`.
            loss_weight: of both losses, or by name (`loss_cls`, `loss_box_reg`; 1 for one left out).
            use_fed_loss: the classes of a batch and a few others take part in the loss, not all: for data sets
                that are not labelled for every class. https://arxiv.org/abs/2103.07461. Needs `use_sigmoid_ce`.
            use_sigmoid_ce: a binary loss for each class, instead of one choice among all of them.
            get_fed_loss_cls_weights: gives (K,), how likely each class is drawn as one of the others.
            fed_loss_num_classes: classes that take part.

        Raises:
            AssertionError: `use_fed_loss` without what it needs.
        """
        super().__init__()
        if isinstance(input_shape, int):
            input_shape = ShapeSpec(channels=input_shape)
        width = input_shape.channels * (input_shape.height or 1) * (input_shape.width or 1)
        self.num_classes = num_classes
        self.box2box_transform = box2box_transform
        box_dim = len(box2box_transform.weights)
        self.cls_score = nn.Linear(width, num_classes + 1)
        self.bbox_pred = nn.Linear(width, (1 if cls_agnostic_bbox_reg else num_classes) * box_dim)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

        self.smooth_l1_beta = smooth_l1_beta
        self.box_reg_loss_type = box_reg_loss_type
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        if not isinstance(loss_weight, Mapping):
            loss_weight = {"loss_cls": loss_weight, "loss_box_reg": loss_weight}
        self.loss_weight = dict(loss_weight)

        self.use_fed_loss = use_fed_loss
        self.use_sigmoid_ce = use_sigmoid_ce
        self.fed_loss_num_classes = fed_loss_num_classes
        if use_fed_loss:
            assert use_sigmoid_ce, "use_fed_loss leaves classes out of the loss, which needs use_sigmoid_ce=True."
            assert get_fed_loss_cls_weights is not None, "use_fed_loss needs get_fed_loss_cls_weights."
            weights = get_fed_loss_cls_weights()
            assert len(weights) == num_classes, (
                f"get_fed_loss_cls_weights gives {len(weights)} weights for {num_classes} classes."
            )
            self.register_buffer("fed_loss_cls_weights", weights)

    def forward(self, x: torch.Tensor) -> Predictions:
        """Features (R, ...) to logits (R, K + 1), background last, and deltas (R, C * 4)."""
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x)

    def losses(self, predictions: Predictions, proposals: list[Instances]) -> dict[str, torch.Tensor]:
        """`loss_cls` and `loss_box_reg`; both stay connected to the predictions where there are no boxes.

        Args:
            predictions: as `forward` gives them.
            proposals: per image `proposal_boxes` and `gt_classes` (K for background); `gt_boxes` where the
                image has objects. R in all.
        """
        scores, deltas = predictions
        gt_classes = _joined([p.gt_classes for p in proposals], scores.new_zeros(0, dtype=torch.int64))
        no_boxes = deltas.new_zeros((0, 4))
        proposal_boxes = _joined([p.proposal_boxes.tensor for p in proposals], no_boxes)
        assert not proposal_boxes.requires_grad, "Proposals are constants to the box head, but these need a gradient."
        # An image without objects has only background, whose target is never read.
        targets = [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals]
        _log_classification_stats(scores, gt_classes)

        if self.use_sigmoid_ce:
            loss_cls = self.sigmoid_cross_entropy_loss(scores, gt_classes)
        else:
            loss_cls = cross_entropy(scores, gt_classes, reduction="mean")
        loss_box_reg = self.box_reg_loss(proposal_boxes, _joined(targets, no_boxes), deltas, gt_classes)
        losses = {"loss_cls": loss_cls, "loss_box_reg": loss_box_reg}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def get_fed_loss_classes(
        self, gt_classes: torch.Tensor, num_fed_loss_classes: int, num_classes: int, weight: torch.Tensor
    ) -> torch.Tensor:
        """Classes that take part in the loss: those of `gt_classes`, and others drawn up to the number wanted.

        Args:
            gt_classes: (R,), in [0, num_classes]; the background counts as a class of the batch.
            weight: (num_classes,), how likely each other class is drawn.
        """
        present = gt_classes.unique()
        missing = num_fed_loss_classes - len(present)
        if missing <= 0:
            return present
        chances = torch.zeros(num_classes + 1, device=weight.device)
        chances[:-1] = weight
        chances[present] = 0
        return torch.cat((present, chances.multinomial(missing, replacement=False)))

    def sigmoid_cross_entropy_loss(self, pred_class_logits: torch.Tensor, gt_classes: torch.Tensor) -> torch.Tensor:
        """Binary cross entropy summed over the classes, mean over the boxes.

        Args:
            pred_class_logits: (R, K + 1); the background's column takes no part.
            gt_classes: (R,), in [0, K].
        """
        if pred_class_logits.numel() == 0:
            return pred_class_logits.sum() * 0.0
        num_boxes, num_classes = len(pred_class_logits), pred_class_logits.shape[1] - 1
        targets = F.one_hot(gt_classes, num_classes + 1)[:, :-1].to(pred_class_logits.dtype)
        per_class = F.binary_cross_entropy_with_logits(pred_class_logits[:, :-1], targets, reduction="none")
        if self.use_fed_loss:
            part = self.get_fed_loss_classes(
                gt_classes, self.fed_loss_num_classes, num_classes, self.fed_loss_cls_weights
            )
            mask = per_class.new_zeros(num_classes + 1)
            mask[part] = 1
            per_class = per_class * mask[:-1]
        return per_class.sum() / num_boxes

    def box_reg_loss(
        self,
        proposal_boxes: torch.Tensor,
        gt_boxes: torch.Tensor,
        pred_deltas: torch.Tensor,
        gt_classes: torch.Tensor,
    ) -> torch.Tensor:
        """Box loss of the foreground, divided by the number of all boxes: each object then weighs the same,
        however many boxes of a batch are foreground.

        Args:
            proposal_boxes: (R, 4).
            gt_boxes: (R, 4); read only for foreground.
            pred_deltas: (R, C * 4).
            gt_classes: (R,), in [0, K].
        """
        foreground = ((gt_classes >= 0) & (gt_classes < self.num_classes)).nonzero().flatten()
        own = self._of_class(pred_deltas, foreground, gt_classes[foreground])
        loss = _dense_box_regression_loss(
            [proposal_boxes[foreground]],
            self.box2box_transform,
            [own[None]],
            [gt_boxes[foreground]],
            torch.ones((1, len(foreground)), dtype=torch.bool, device=foreground.device),
            box_reg_loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        return loss / max(gt_classes.numel(), 1)

    def _of_class(self, per_class: torch.Tensor, rows: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """From boxes or deltas (R, C * 4), those of `classes` in `rows`."""
        box_dim = len(self.box2box_transform.weights)
        if per_class.shape[1] == box_dim:
            return per_class[rows]
        return per_class.unflatten(1, (self.num_classes, box_dim))[rows, classes]

    def inference(
        self, predictions: Predictions, proposals: list[Instances]
    ) -> tuple[list[Instances], list[torch.Tensor]]:
        """Detections of each image: see `fast_rcnn_inference`."""
        return fast_rcnn_inference(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [p.image_size for p in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )

    def predict_boxes_for_gt_classes(
        self, predictions: Predictions, proposals: list[Instances]
    ) -> tuple[torch.Tensor, ...]:
        """Per image (R_i, 4): the box that is regressed for the true class, any class's for background."""
        if not proposals:
            return ()
        boxes = torch.cat(self.predict_boxes(predictions, proposals))
        classes = cat([p.gt_classes for p in proposals]).clamp(0, self.num_classes - 1)
        rows = torch.arange(len(boxes), device=boxes.device)
        return self._of_class(boxes, rows, classes).split([len(p) for p in proposals])

    def predict_boxes(self, predictions: Predictions, proposals: list[Instances]) -> tuple[torch.Tensor, ...]:
        """Per image (R_i, C * 4): the boxes that the deltas make of the proposals."""
        if not proposals:
            return ()
        _, deltas = predictions
        boxes = self.box2box_transform.apply_deltas(deltas, cat([p.proposal_boxes.tensor for p in proposals]))
        return boxes.split([len(p) for p in proposals])

    def predict_probs(self, predictions: Predictions, proposals: list[Instances]) -> tuple[torch.Tensor, ...]:
        """Per image (R_i, K + 1): scores, background last."""
        scores, _ = predictions
        probs = scores.sigmoid() if self.use_sigmoid_ce else scores.softmax(dim=-1)
        return probs.split([len(p) for p in proposals])


def _joined(tensors: list[torch.Tensor], empty: torch.Tensor) -> torch.Tensor:
    return cat(tensors) if tensors else empty
