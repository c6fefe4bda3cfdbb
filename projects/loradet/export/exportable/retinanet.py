"""RetinaNet's inference as a function of one tensor."""

from typing import Any

import torch
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from torch import Tensor, nn

from loradet.errors import UserError
from loradet.export.exportable.base import Exportable, per_anchor
from loradet.export.exportable.detections import best, clip, finish, suppress, take


class DenseExportable(Exportable):
    """What is common to detectors that predict at every position of their maps. See `Exportable`."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            images: (N, 3, H, W) float32 RGB in 0..255.

        Returns:
            boxes (N, D, 4), XYXY pixels of the input, clipped to it; scores (N, D), falling; classes (N, D) int64;
            counts (N,) int64. Of each image the first `counts` entries are detections, the others are zeros.
        """
        model = self.model
        height, width = images.shape[-2:]
        maps = model.backbone(self.prepare(images))
        features = [maps[name] for name in model.head_in_features]
        levels = [
            self._candidates(*level) for level in zip(model.anchor_generator(features), *self.predictions(features))
        ]
        boxes, scores, classes = (torch.cat(values, dim=1) for values in zip(*levels))
        kept = suppress(
            boxes,
            scores,
            classes,
            number=model.num_classes,
            iou=model.test_nms_thresh,
            above=model.test_score_thresh,
            for_onnx=self.for_onnx,
        )
        boxes, scores, classes = take(boxes, kept, classes, model.max_detections_per_image)
        return finish(clip(boxes, height, width), scores, classes)

    def predictions(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per map, scores (N, R, K) and deltas (N, R, 4) of its R anchors."""
        raise NotImplementedError(f"{type(self).__name__} has no predictions.")

    @property
    def score_threshold(self) -> float:
        """Scores that are not larger are left out."""
        return float(self.model.test_score_thresh)

    @score_threshold.setter
    def score_threshold(self, value: float) -> None:
        self.model.test_score_thresh = value

    def limits(self) -> dict[str, Any]:
        model = self.model
        return {
            "score_threshold": float(model.test_score_thresh),
            "nms_threshold": float(model.test_nms_thresh),
            "candidates_per_level": int(model.test_topk_candidates),
            "max_detections": int(model.max_detections_per_image),
        }

    def _candidates(self, anchors: Any, scores: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The K best (anchor, class) pairs of one level: boxes (N, K, 4), scores (N, K), classes (N, K)."""
        model = self.model
        scores, pair = best(scores.flatten(1), model.test_topk_candidates, for_onnx=self.for_onnx)
        anchor = pair // model.num_classes
        chosen = deltas.gather(1, anchor[..., None].expand(-1, -1, 4))
        boxes = model.box2box_transform.apply_deltas(chosen.flatten(0, 1), anchors.tensor[anchor.flatten()])
        return boxes.unflatten(0, (-1, scores.shape[1])), scores, pair % model.num_classes


class ExportableRetinaNet(DenseExportable):
    """See `Exportable`."""

    def __init__(self, *, model: nn.Module, image_format: str = "RGB"):
        if not isinstance(model, RetinaNet):
            raise UserError(f"ExportableRetinaNet takes a RetinaNet; this model is a {type(model).__name__}.")
        super().__init__(model=model, image_format=image_format)

    def predictions(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """As of the base class."""
        logits, deltas = self.model.head(features)
        scores = [per_anchor(x, self.model.num_classes).float().sigmoid() for x in logits]
        return scores, [per_anchor(x, 4) for x in deltas]
