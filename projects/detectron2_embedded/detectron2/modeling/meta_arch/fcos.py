"""FCOS: https://arxiv.org/abs/2006.09214."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec, cat
from detectron2.layers.losses import sigmoid_focal_loss
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.box_regression import Box2BoxTransformLinear, _dense_box_regression_loss
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, ImageList, Instances, pairwise_point_box_distance
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn import functional as F

__all__ = ["FCOS"]


class FCOS(DenseDetector):
    """One-stage detector with a single anchor at every position: a square of the side of the level's stride.

    An object is learnt at positions near its centre, on the level whose range its size falls into. A third
    prediction, the centerness, lowers the scores of boxes that are seen from off their centre.

    Attributes:
        loss_normalizer: running mean of the positive anchors in a batch, by which the losses are divided: a plain
            float, kept out of the state dict.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str] | None = None,
        box2box_transform: Any = None,
        num_classes: int,
        center_sampling_radius: float = 1.5,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        test_score_thresh: float = 0.2,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.6,
        max_detections_per_image: int = 100,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """
        Args:
            head: takes the maps; returns logits (N, K, H, W), deltas (N, 4, H, W) and centerness logits
                (N, 1, H, W) per map.
            box2box_transform: by default `Box2BoxTransformLinear`, distances in units of the stride.
            center_sampling_radius: a positive position is nearer to the object's centre than so many strides, in
                both directions.
            backbone, head_in_features, num_classes, pixel_mean, pixel_std and the others: see `RetinaNet`. Scores
                are those of class and centerness together.
        """
        super().__init__(backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.num_classes = num_classes
        shapes = backbone.output_shape()
        strides = [shapes[name].stride for name in self.head_in_features]
        self.anchor_generator = DefaultAnchorGenerator(
            sizes=[[stride] for stride in strides], aspect_ratios=[1.0], strides=strides
        )
        self.box2box_transform = Box2BoxTransformLinear() if box2box_transform is None else box2box_transform
        self.center_sampling_radius = float(center_sampling_radius)
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.loss_normalizer = 300.0

    def forward_training(
        self,
        images: ImageList,  # noqa: ARG002
        features: list[torch.Tensor],
        predictions: list[list[torch.Tensor]],
        gt_instances: list[Instances],
    ) -> dict[str, torch.Tensor]:
        """`loss_fcos_cls`, `loss_fcos_loc` and `loss_fcos_ctr`."""
        logits, deltas, centerness = self._transpose_dense_predictions(predictions, [self.num_classes, 4, 1])
        anchors = self.anchor_generator(features)
        gt_labels, gt_boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(anchors, logits, gt_labels, deltas, gt_boxes, centerness)

    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What each anchor should predict: the smallest object that it may be a positive of.

        Args:
            anchors: per level, R in all.
            gt_instances: `gt_boxes` and `gt_classes` of each image.

        Returns:
            Per image, labels (R,): the class in [0, K), or K for background; and matched boxes (R, 4), which mean
            something only where the label is a class.
        """
        gt_labels, gt_boxes = [], []
        for truth in gt_instances:
            if len(truth) == 0:
                boxes = torch.zeros_like(Boxes.cat(anchors).tensor)
                labels = torch.full((len(boxes),), self.num_classes, dtype=torch.int64, device=boxes.device)
            else:
                quality, matches = self._match_anchors(truth.gt_boxes, anchors).max(dim=0)
                boxes = truth.gt_boxes.tensor[matches]
                labels = truth.gt_classes[matches].masked_fill(quality <= 0, self.num_classes)
            gt_labels.append(labels)
            gt_boxes.append(boxes)
        return gt_labels, gt_boxes

    def _match_anchors(self, gt_boxes: Boxes, anchors: list[Boxes]) -> torch.Tensor:
        """Qualities (M, R) of pairs of a box and an anchor: larger for smaller boxes, 0 where they do not match."""
        all_anchors = Boxes.cat(anchors)
        sizes = all_anchors.tensor[:, 2] - all_anchors.tensor[:, 0]
        centers = all_anchors.get_centers()
        offsets = (centers - gt_boxes.get_centers()[:, None]).abs().amax(dim=2)
        distances = pairwise_point_box_distance(centers, gt_boxes).transpose(0, 1)
        # A level is there for boxes whose farthest side lies 4 to 8 strides away; the ends take what is left.
        farthest, nearest_allowed, farthest_allowed = distances.amax(dim=2), 4 * sizes, 8 * sizes
        nearest_allowed[: len(anchors[0])] = 0
        farthest_allowed[len(sizes) - len(anchors[-1]) :] = torch.inf
        matched = (
            (distances.amin(dim=2) > 0)
            & (offsets < self.center_sampling_radius * sizes)
            & (farthest > nearest_allowed)
            & (farthest < farthest_allowed)
        )
        # In float32, as Detectron2 does: areas that differ by less than 8 square pixels count as equal.
        return matched * (1e8 - gt_boxes.area()[:, None])

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[torch.Tensor],
        gt_labels: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        gt_boxes: list[torch.Tensor],
        pred_centerness: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """The three losses, divided by the running number of positive anchors; updates that number.

        All stay connected to the predictions where no image has a box, so that every process of a distributed run
        takes part in the backward pass.

        Args:
            anchors: per level (R_l, 4).
            pred_logits: per level (N, R_l, K).
            gt_labels: per image (R,), as `label_anchors` gives them.
            pred_anchor_deltas: per level (N, R_l, 4).
            gt_boxes: per image (R, 4).
            pred_centerness: per level (N, R_l, 1).
        """
        labels = torch.stack(gt_labels)
        positive = (labels >= 0) & (labels != self.num_classes)
        num_positive = int(positive.sum())
        get_event_storage().put_scalar("num_pos_anchors", num_positive / len(gt_labels))
        normalizer = self._ema_update("loss_normalizer", max(num_positive, 1), 300)

        logits = cat(pred_logits, dim=1)
        targets = torch.zeros_like(logits)
        targets[(*positive.nonzero(as_tuple=True), labels[positive])] = 1
        loss_cls = sigmoid_focal_loss(
            logits, targets, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma, reduction="sum"
        )
        loss_box_reg = _dense_box_regression_loss(
            anchors, self.box2box_transform, pred_anchor_deltas, gt_boxes, positive, box_reg_loss_type="giou"
        )
        centerness = cat(pred_centerness, dim=1).squeeze(2)[positive]
        loss_centerness = F.binary_cross_entropy_with_logits(
            centerness.float(), self.compute_ctrness_targets(anchors, gt_boxes)[positive], reduction="sum"
        )
        return {
            "loss_fcos_cls": loss_cls / normalizer,
            "loss_fcos_loc": loss_box_reg / normalizer,
            "loss_fcos_ctr": loss_centerness / normalizer,
        }

    def compute_ctrness_targets(self, anchors: list[Boxes], gt_boxes: list[torch.Tensor]) -> torch.Tensor:
        """Centerness (N, R), eq. 3 of the first paper: 1 at a box's centre, 0 at its sides, of no meaning outside.

        Args:
            anchors: per level (R_l, 4).
            gt_boxes: per image (R, 4), the box of each anchor.
        """
        all_anchors = Boxes.cat(anchors).tensor
        distances = torch.stack([self.box2box_transform.get_deltas(all_anchors, boxes) for boxes in gt_boxes])
        near_far = torch.stack((distances[..., :2], distances[..., 2:]), dim=-1).aminmax(dim=-1)
        return (near_far.min / near_far.max).prod(dim=-1).sqrt()

    def forward_inference(
        self, images: ImageList, features: list[torch.Tensor], predictions: list[list[torch.Tensor]]
    ) -> list[Instances]:
        """Detections of each image by falling score, in the coordinates of the input image.

        A score is the geometric mean of the class's and of the centerness.
        """
        logits, deltas, centerness = self._transpose_dense_predictions(predictions, [self.num_classes, 4, 1])
        anchors = self.anchor_generator(features)
        scores = [(x.float().sigmoid() * y.float().sigmoid()).sqrt() for x, y in zip(logits, centerness)]
        return [
            self.inference_single_image(anchors, [x[i] for x in scores], [x[i] for x in deltas], size)
            for i, size in enumerate(images.image_sizes)
        ]


class FCOSHead(RetinaNetHead):
    """RetinaNet's towers for one anchor at each position, and centerness beside the deltas."""

    def __init__(self, *, input_shape: list[ShapeSpec], conv_dims: list[int], **kwargs: Any) -> None:
        """
        Args:
            input_shape, conv_dims: see `RetinaNetHead`.
            kwargs: its other arguments, but for `num_anchors`.
        """
        super().__init__(input_shape=input_shape, conv_dims=conv_dims, num_anchors=1, **kwargs)
        self.ctrness = nn.Conv2d(self.bbox_pred.in_channels, 1, kernel_size=3, padding=1)
        nn.init.normal_(self.ctrness.weight, std=0.01)
        nn.init.zeros_(self.ctrness.bias)

    def forward(
        self, features: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Logits (N, K, H, W), deltas (N, 4, H, W) and centerness logits (N, 1, H, W) for each map (N, C, H, W)."""
        assert len(features) == self._num_features, (
            f"The head is made for {self._num_features} maps, got {len(features)}."
        )
        logits = [self.cls_score(self.cls_subnet(feature)) for feature in features]
        towers = [self.bbox_subnet(feature) for feature in features]
        return logits, [self.bbox_pred(x) for x in towers], [self.ctrness(x) for x in towers]
