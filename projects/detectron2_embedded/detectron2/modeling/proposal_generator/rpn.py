"""Region proposal network of Faster R-CNN: https://arxiv.org/abs/1506.01497."""

from collections.abc import Mapping, Sequence

import torch
from detectron2._subset import missing_names
from detectron2.layers import Conv2d, cat
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry
from torch import nn
from torch.nn import functional as F

RPN_HEAD_REGISTRY = Registry("RPN_HEAD")


@RPN_HEAD_REGISTRY.register()
class StandardRPNHead(nn.Module):
    """3x3 convolutions, then an objectness logit and box deltas for every anchor; shared by all levels."""

    def __init__(
        self, *, in_channels: int, num_anchors: int, box_dim: int = 4, conv_dims: Sequence[int] = (-1,)
    ) -> None:
        """
        Args:
            in_channels: of every map.
            num_anchors: A, at each position.
            box_dim: numbers per box.
            conv_dims: channels of the 3x3 convolutions; -1 keeps the number.

        Raises:
            ValueError: channels that are neither positive nor -1.
        """
        super().__init__()
        convs: list[nn.Module] = []
        channels = in_channels
        for width in conv_dims:
            if width != -1 and width <= 0:
                raise ValueError(f"conv_dims holds positive numbers of channels, or -1; got {list(conv_dims)}.")
            out_channels = channels if width == -1 else width
            convs.append(Conv2d(channels, out_channels, kernel_size=3, padding=1, activation=nn.ReLU()))
            channels = out_channels
        # A single convolution has no index in its name: checkpoints depend on it.
        self.conv = convs[0] if len(convs) == 1 else nn.Sequential()
        if len(convs) > 1:
            for i, conv in enumerate(convs):
                self.conv.add_module(f"conv{i}", conv)
        self.objectness_logits = nn.Conv2d(channels, num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * box_dim, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, features: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Logits (N, A, H, W) and deltas (N, A * box_dim, H, W) for each map (N, C, H, W)."""
        hidden = [self.conv(feature) for feature in features]
        return [self.objectness_logits(x) for x in hidden], [self.anchor_deltas(x) for x in hidden]


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Scores all anchors, moves them, and passes the best on.

    Shapes: N images, R anchors in all, R_l of them at level l.
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[float, float],
        post_nms_topk: tuple[float, float],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | Mapping[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ) -> None:
        """
        Args:
            in_features: names of the maps, finest first.
            head: takes those maps; returns logits (N, A, H, W) and deltas (N, A * 4, H, W) per map.
            anchor_matcher: labels anchors by IoU with the ground truth.
            batch_size_per_image: anchors drawn per image for the losses.
            positive_fraction: largest part of them that is positive.
            pre_nms_topk: boxes per level and image that enter NMS, (in training, else).
            post_nms_topk: boxes per image that are kept, (in training, else).
            nms_thresh: IoU above which NMS suppresses, within a level.
            min_box_size: boxes with a side of this many pixels or less are dropped.
            anchor_boundary_thresh: anchors that reach further past the image, in pixels, are not trained on;
                negative: all are.
            loss_weight: of both losses, or by name (`loss_rpn_cls`, `loss_rpn_loc`; 1 for one left out).
            box_reg_loss_type, smooth_l1_beta: see `_dense_box_regression_loss`.
        """
        super().__init__()
        self.in_features = list(in_features)
        self.rpn_head = head
        self.anchor_generator = anchor_generator
        self.anchor_matcher = anchor_matcher
        self.box2box_transform = box2box_transform
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_topk = {True: pre_nms_topk[0], False: pre_nms_topk[1]}
        self.post_nms_topk = {True: post_nms_topk[0], False: post_nms_topk[1]}
        self.nms_thresh = nms_thresh
        self.min_box_size = float(min_box_size)
        self.anchor_boundary_thresh = anchor_boundary_thresh
        if not isinstance(loss_weight, Mapping):
            loss_weight = {"loss_rpn_cls": loss_weight, "loss_rpn_loc": loss_weight}
        self.loss_weight = dict(loss_weight)
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        gt_instances: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """
        Args:
            images: N images, whose sizes limit the boxes.
            features: maps by name.
            gt_instances: `gt_boxes` of each image; needed in training.

        Returns:
            Proposals of each image (`proposal_boxes`, `objectness_logits`, without gradients) and, in training,
            the losses by name.
        """
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logits, deltas = self.rpn_head(maps)
        logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
        deltas = [permute_to_N_HWA_K(x, self.anchor_generator.box_dim) for x in deltas]
        losses: dict[str, torch.Tensor] = {}
        if self.training:
            assert gt_instances is not None, "The RPN needs ground truth in training."
            gt_labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, gt_labels, deltas, gt_boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What the sampled anchors should predict.

        Args:
            anchors: per level.
            gt_instances: `gt_boxes` of each image.

        Returns:
            Per image, labels (R,): 1 for sampled positives, 0 for sampled negatives, -1 for all others; and
            matched boxes (R, 4), which mean something only where the label is 1.
        """
        all_anchors = Boxes.cat(anchors)
        gt_labels, matched_boxes = [], []
        for truth in gt_instances:
            matches, labels = self.anchor_matcher(pairwise_iou(truth.gt_boxes, all_anchors))
            if self.anchor_boundary_thresh >= 0:
                labels[~all_anchors.inside_box(truth.image_size, self.anchor_boundary_thresh)] = -1
            gt_labels.append(self._subsample_labels(labels))
            boxes = truth.gt_boxes.tensor
            matched_boxes.append(boxes[matches] if len(boxes) else torch.zeros_like(all_anchors.tensor))
        return gt_labels, matched_boxes

    def _subsample_labels(self, label: torch.Tensor) -> torch.Tensor:
        """Keep the labels of a random sample, in place; the others become -1."""
        positive, negative = subsample_labels(label, self.batch_size_per_image, self.positive_fraction, 0)
        label.fill_(-1)
        label[positive] = 1
        label[negative] = 0
        return label

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[torch.Tensor],
        gt_labels: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        gt_boxes: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """`loss_rpn_cls` and `loss_rpn_loc`, divided by the number of anchors asked for.

        Args:
            anchors: per level (R_l, 4).
            pred_objectness_logits: per level (N, R_l).
            gt_labels: per image (R,), values in {-1, 0, 1}.
            pred_anchor_deltas: per level (N, R_l, 4).
            gt_boxes: per image (R, 4).
        """
        labels = torch.stack(gt_labels)
        positive = labels == 1
        num_images = len(gt_labels)
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", int(positive.sum()) / num_images)
        storage.put_scalar("rpn/num_neg_anchors", int((labels == 0).sum()) / num_images)

        loss_loc = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            positive,
            box_reg_loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        valid = labels >= 0
        loss_cls = F.binary_cross_entropy_with_logits(
            cat(pred_objectness_logits, dim=1)[valid], labels[valid].float(), reduction="sum"
        )
        normalizer = self.batch_size_per_image * num_images
        losses = {"loss_rpn_cls": loss_cls / normalizer, "loss_rpn_loc": loss_loc / normalizer}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """The best moved anchors of each image. Boxes are constants to what follows: no gradient passes."""
        return find_top_rpn_proposals(
            self._decode_proposals(anchors, pred_anchor_deltas),
            pred_objectness_logits,
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )

    def _decode_proposals(self, anchors: list[Boxes], pred_anchor_deltas: list[torch.Tensor]) -> list[torch.Tensor]:
        """Boxes per level (N, R_l, 4) from deltas per level (N, R_l, 4)."""
        decoded = []
        for level, deltas in zip(anchors, pred_anchor_deltas):
            num_images = len(deltas)
            boxes = level.tensor.repeat(num_images, 1)
            moved = self.box2box_transform.apply_deltas(deltas.flatten(0, 1), boxes)
            decoded.append(moved.unflatten(0, (num_images, -1)))
        return decoded


__getattr__ = missing_names(__name__, ["build_rpn_head"])
