"""What one-stage detectors share: images in, per-anchor predictions, detections out."""

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import batched_nms, cat
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.meta_arch.image_detector import ImageDetector
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn


def permute_to_N_HWA_K(tensor: torch.Tensor, K: int) -> torch.Tensor:  # noqa: N802, N803
    """(N, A * K, H, W) to (N, H * W * A, K), in the order of the anchors."""
    assert tensor.dim() == 4, f"A map (N, A * K, H, W) is expected, got shape {tuple(tensor.shape)}."
    return tensor.unflatten(1, (-1, K)).permute(0, 3, 4, 1, 2).flatten(1, 3)


class DenseDetector(ImageDetector, metaclass=ABCMeta):
    """A backbone and a head that predicts at every position of its maps."""

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str] | None = None,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """
        Args:
            head: takes the list of maps, returns lists of predictions, each an entry per map.
            head_in_features: names of the maps; by default all of the backbone's, finest first.
            pixel_mean: per channel, in the channel order and range of the input images.
            pixel_std: likewise.
        """
        super().__init__(backbone=backbone, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.head = head
        if head_in_features is None:
            shapes = backbone.output_shape()
            head_in_features = sorted(shapes, key=lambda name: shapes[name].stride)
        self.head_in_features = list(head_in_features)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: a dict per image: `image` (C, H, W) in the range of `pixel_mean`; in training
                `instances` with `gt_boxes` and `gt_classes`; else `height` and `width` of the output where
                they differ from the image's.

        Returns:
            Training: losses by name. Else, a dict per image whose `instances` hold the detections.

        Raises:
            ValueError: an image without `instances` in training.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        features = [features[name] for name in self.head_in_features]
        predictions = self.head(features)
        if self.training:
            return self.forward_training(images, features, predictions, self._ground_truth(batched_inputs))
        results = self.forward_inference(images, features, predictions)
        return [
            {"instances": detector_postprocess(result, item.get("height", size[0]), item.get("width", size[1]))}
            for result, item, size in zip(results, batched_inputs, images.image_sizes)
        ]

    @abstractmethod
    def forward_training(
        self,
        images: ImageList,
        features: list[torch.Tensor],
        predictions: list[list[torch.Tensor]],
        gt_instances: list[Instances],
    ) -> dict[str, torch.Tensor]:
        """Losses by name."""

    @abstractmethod
    def forward_inference(
        self, images: ImageList, features: list[torch.Tensor], predictions: list[list[torch.Tensor]]
    ) -> list[Instances]:
        """Detections of each image, in the coordinates of the input image."""

    def inference_single_image(
        self,
        anchors: list[Boxes],
        box_cls: list[torch.Tensor],
        box_delta: list[torch.Tensor],
        image_size: tuple[int, int],
    ) -> Instances:
        """Detections of one image, by the detector's `box2box_transform` and its `test_*` settings.

        Args:
            anchors: per level (R_l, 4).
            box_cls: scores per level (R_l, K).
            box_delta: per level (R_l, 4).
            image_size: (height, width) of the input image.
        """
        candidates = self._decode_multi_level_predictions(
            anchors, box_cls, box_delta, self.test_score_thresh, self.test_topk_candidates, image_size
        )
        keep = batched_nms(
            candidates.pred_boxes.tensor, candidates.scores, candidates.pred_classes, self.test_nms_thresh
        )
        return candidates[keep[: self.max_detections_per_image]]

    def _transpose_dense_predictions(
        self, predictions: list[list[torch.Tensor]], dims_per_anchor: list[int]
    ) -> list[list[torch.Tensor]]:
        """Maps (N, A * K, H, W) to (N, H * W * A, K), each list of predictions with its own K."""
        assert len(predictions) == len(dims_per_anchor), (
            f"The head gives {len(predictions)} kinds of predictions, {len(dims_per_anchor)} are expected."
        )
        return [[permute_to_N_HWA_K(x, K) for x in maps] for maps, K in zip(predictions, dims_per_anchor)]

    def _ema_update(self, name: str, value: float, initial_value: float, momentum: float = 0.9) -> float:
        """Move the running mean in attribute `name`, at first `initial_value`, towards `value`; return it."""
        updated = getattr(self, name, initial_value) * momentum + value * (1 - momentum)
        setattr(self, name, updated)
        return updated

    def _decode_per_level_predictions(
        self,
        anchors: Boxes,
        pred_scores: torch.Tensor,
        pred_deltas: torch.Tensor,
        score_thresh: float,
        topk_candidates: int,
        image_size: tuple[int, int],
    ) -> Instances:
        """The best-scored (box, class) pairs of one image at one level, by falling score.

        Args:
            anchors: R boxes.
            pred_scores: (R, K).
            pred_deltas: (R, 4).
        """
        anchor_index, class_index = (pred_scores > score_thresh).nonzero(as_tuple=True)
        count = min(topk_candidates, len(anchor_index))
        scores, order = pred_scores[anchor_index, class_index].topk(count)
        anchor_index = anchor_index[order]
        boxes = self.box2box_transform.apply_deltas(pred_deltas[anchor_index], anchors.tensor[anchor_index])
        return Instances(image_size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=class_index[order])

    def _decode_multi_level_predictions(
        self,
        anchors: list[Boxes],
        pred_scores: list[torch.Tensor],
        pred_deltas: list[torch.Tensor],
        score_thresh: float,
        topk_candidates: int,
        image_size: tuple[int, int],
    ) -> Instances:
        """`_decode_per_level_predictions` of all levels, joined."""
        levels = [
            self._decode_per_level_predictions(*level, score_thresh, topk_candidates, image_size)
            for level in zip(anchors, pred_scores, pred_deltas)
        ]
        return Instances(
            image_size,
            pred_boxes=Boxes.cat([level.pred_boxes for level in levels]),
            scores=cat([level.scores for level in levels]),
            pred_classes=cat([level.pred_classes for level in levels]),
        )
