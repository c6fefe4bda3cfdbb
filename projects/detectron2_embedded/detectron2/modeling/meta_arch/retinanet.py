"""RetinaNet: https://arxiv.org/abs/1708.02002."""

import logging
import math
from collections.abc import Callable, Sequence

import torch
from detectron2._subset import ADVICE
from detectron2.layers import CycleBatchNormList, ShapeSpec, cat, get_norm
from detectron2.layers.losses import sigmoid_focal_loss
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import nn

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class RetinaNet(DenseDetector):
    """One-stage detector: focal loss over all anchors, box regression on the positive ones.

    Attributes:
        loss_normalizer: running mean of the positive anchors in a batch, by which both losses are divided: a
            plain float, kept out of the state dict.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str] | None,
        anchor_generator: nn.Module,
        box2box_transform: Box2BoxTransform,
        anchor_matcher: Matcher,
        num_classes: int,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.5,
        max_detections_per_image: int = 100,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        vis_period: int = 0,
        input_format: str = "BGR",
    ) -> None:
        """
        Args:
            backbone: gives the maps named in `head_in_features`.
            head: takes those maps; returns logits (N, A * K, H, W) and deltas (N, A * 4, H, W) per map.
            anchor_matcher: labels anchors by IoU with the ground truth.
            num_classes: K.
            focal_loss_alpha: weight of positives, 1 - alpha that of negatives; -1 for no weights.
            smooth_l1_beta, box_reg_loss_type: see `_dense_box_regression_loss`.
            test_score_thresh: detections with lower scores are dropped.
            test_topk_candidates: number of (anchor, class) pairs per map that enter NMS.
            test_nms_thresh: IoU above which NMS suppresses.
            max_detections_per_image: kept after NMS.
            pixel_mean, pixel_std: per channel of `input_format`, in the range of the images.
            vis_period: only 0: painting training images is not part of this subset.
            input_format: channel order that the images come in, for those who load or paint them.

        Raises:
            NotImplementedError: `vis_period` is positive.
        """
        super().__init__(backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std)
        if vis_period > 0:
            raise NotImplementedError(f"Painting training images (vis_period={vis_period}) {ADVICE}")
        self.num_classes = num_classes
        self.anchor_generator = anchor_generator
        self.box2box_transform = box2box_transform
        self.anchor_matcher = anchor_matcher
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.smooth_l1_beta = smooth_l1_beta
        self.box_reg_loss_type = box_reg_loss_type
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.vis_period = vis_period
        self.input_format = input_format
        # The start only has to be of the right order: first steps must not divide by very few anchors.
        self.loss_normalizer = 100.0
        self.loss_normalizer_momentum = 0.9

    def forward_training(
        self,
        images: ImageList,  # noqa: ARG002
        features: list[torch.Tensor],
        predictions: list[list[torch.Tensor]],
        gt_instances: list[Instances],
    ) -> dict[str, torch.Tensor]:
        """`loss_cls` and `loss_box_reg`."""
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 4])
        anchors = self.anchor_generator(features)
        gt_labels, gt_boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(anchors, logits, gt_labels, deltas, gt_boxes)

    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What each anchor should predict.

        Args:
            anchors: per level, R in all.
            gt_instances: `gt_boxes` and `gt_classes` of each image.

        Returns:
            Per image, labels (R,): the class in [0, K), K for background, -1 for ignored; and matched boxes
            (R, 4), which mean something only where the label is a class.
        """
        all_anchors = Boxes.cat(anchors)
        gt_labels, gt_boxes = [], []
        for truth in gt_instances:
            matches, match_labels = self.anchor_matcher(pairwise_iou(truth.gt_boxes, all_anchors))
            if len(truth) > 0:
                labels = truth.gt_classes[matches]
                labels[match_labels == 0] = self.num_classes
                labels[match_labels == -1] = -1
                boxes = truth.gt_boxes.tensor[matches]
            else:
                labels = torch.full_like(matches, self.num_classes)
                boxes = torch.zeros_like(all_anchors.tensor)
            gt_labels.append(labels)
            gt_boxes.append(boxes)
        return gt_labels, gt_boxes

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[torch.Tensor],
        gt_labels: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        gt_boxes: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Both losses, divided by the running number of positive anchors; updates that number.

        Both stay connected to the predictions where no image has a box, so that every process of a
        distributed run takes part in the backward pass.

        Args:
            anchors: per level (R_l, 4).
            pred_logits: per level (N, R_l, K).
            gt_labels: per image (R,), as `label_anchors` gives them.
            pred_anchor_deltas: per level (N, R_l, 4).
            gt_boxes: per image (R, 4).
        """
        labels = torch.stack(gt_labels)
        valid = labels >= 0
        positive = valid & (labels != self.num_classes)
        num_positive = int(positive.sum())
        get_event_storage().put_scalar("num_pos_anchors", num_positive / len(gt_labels))
        normalizer = self._ema_update(
            "loss_normalizer", max(num_positive, 1), 100, momentum=self.loss_normalizer_momentum
        )

        logits = cat(pred_logits, dim=1)
        targets = torch.zeros_like(logits)
        targets[(*positive.nonzero(as_tuple=True), labels[positive])] = 1
        focal = sigmoid_focal_loss(
            logits, targets, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma, reduction="none"
        )
        # Ignored anchors are few: masking costs less than picking the others, forward and backward.
        loss_cls = (focal * valid[..., None]).sum()
        loss_box_reg = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            positive,
            box_reg_loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        return {"loss_cls": loss_cls / normalizer, "loss_box_reg": loss_box_reg / normalizer}

    def forward_inference(
        self, images: ImageList, features: list[torch.Tensor], predictions: list[list[torch.Tensor]]
    ) -> list[Instances]:
        """Detections of each image by falling score, in the coordinates of the input image."""
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 4])
        anchors = self.anchor_generator(features)
        return [
            self.inference_single_image(anchors, [x[i].float().sigmoid() for x in logits], [x[i] for x in deltas], size)
            for i, size in enumerate(images.image_sizes)
        ]


class RetinaNetHead(nn.Module):
    """Two towers of 3x3 convolutions, shared by all levels: class logits and box deltas for every anchor."""

    def __init__(
        self,
        *,
        input_shape: list[ShapeSpec],
        num_classes: int,
        num_anchors: int,
        conv_dims: list[int],
        norm: str | Callable[[int], nn.Module] = "",
        prior_prob: float = 0.01,
    ) -> None:
        """
        Args:
            input_shape: of each level; all have the same channels.
            num_classes: K.
            num_anchors: A, at each position.
            conv_dims: channels of the convolutions of each tower.
            norm: see `get_norm`. "BN" and "SyncBN" keep statistics for each level.
            prior_prob: score that every anchor starts with.
        """
        super().__init__()
        self._num_features = len(input_shape)
        norm = self._norm_per_level(norm)
        in_channels = input_shape[0].channels
        self.cls_subnet = self._tower(in_channels, conv_dims, norm)
        self.bbox_subnet = self._tower(in_channels, conv_dims, norm)
        last = [in_channels, *conv_dims][-1]
        self.cls_score = nn.Conv2d(last, num_anchors * num_classes, kernel_size=3, padding=1)
        self.bbox_pred = nn.Conv2d(last, num_anchors * 4, kernel_size=3, padding=1)

        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.normal_(conv.weight, mean=0, std=0.01)
                nn.init.zeros_(conv.bias)
        nn.init.constant_(self.cls_score.bias, -math.log((1 - prior_prob) / prior_prob))

    def _norm_per_level(self, norm: str | Callable[[int], nn.Module]) -> str | Callable[[int], nn.Module]:
        if norm in ("BN", "SyncBN"):
            bn_class = nn.BatchNorm2d if norm == "BN" else nn.SyncBatchNorm
            return lambda channels: CycleBatchNormList(self._num_features, bn_class, num_features=channels)
        if isinstance(get_norm(norm, 32), nn.modules.batchnorm._BatchNorm):
            logger.warning("RetinaNetHead shares %s between levels whose statistics differ; use 'BN' or 'GN'.", norm)
        return norm

    @staticmethod
    def _tower(in_channels: int, conv_dims: list[int], norm: str | Callable[[int], nn.Module]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for out_channels in conv_dims:
            layers.append(nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1))
            if norm:
                layers.append(get_norm(norm, out_channels))
            layers.append(nn.ReLU())
            in_channels = out_channels
        return nn.Sequential(*layers)

    def forward(self, features: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Logits (N, A * K, H, W) and deltas (N, A * 4, H, W) for each map (N, C, H, W)."""
        assert len(features) == self._num_features, (
            f"The head is made for {self._num_features} maps, got {len(features)}."
        )
        logits = [self.cls_score(self.cls_subnet(feature)) for feature in features]
        deltas = [self.bbox_pred(self.bbox_subnet(feature)) for feature in features]
        return logits, deltas
