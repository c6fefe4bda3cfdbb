"""RetinaNet's inference as a function of one tensor, for torch.export."""

import torch
import torch.nn.functional as F
import torchvision.ops  # noqa: F401  (registers torchvision::nms)
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from torch import Tensor, nn

from loradet.errors import UserError

OUTPUTS = ("boxes", "scores", "classes", "counts")


class ExportableRetinaNet(nn.Module):
    """Images to padded detections, without data-dependent shapes at either end.

    Args:
        model: a built RetinaNet without LoRA layers, in eval mode.

    Raises:
        ValueError: a model of another kind, or one in training mode.
    """

    def __init__(self, *, model: nn.Module):
        super().__init__()
        if not isinstance(model, RetinaNet):
            raise UserError(f"Only RetinaNet can be exported so far; this model is a {type(model).__name__}.")
        if model.training:
            raise UserError("Call model.eval() before the export.")
        self.model = model
        self.is_bgr = model.input_format == "BGR"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            images: (N, 3, H, W) float32 RGB in 0..255; H and W are multiples of the backbone's size divisibility.

        Returns:
            boxes (N, D, 4), XYXY pixels of the input, clipped to it; scores (N, D), falling; classes (N, D) int64;
            counts (N,) int64. Of each image the first `counts` entries are detections, the others are zeros.
        """
        model = self.model
        if self.is_bgr:
            images = images.flip(1)
        maps = model.backbone((images - model.pixel_mean) / model.pixel_std)
        features = [maps[name] for name in model.head_in_features]
        logits, deltas = model.head(features)
        levels = [self._candidates(*level) for level in zip(model.anchor_generator(features), logits, deltas)]
        boxes, scores, classes = (torch.cat(values, dim=1) for values in zip(*levels))
        boxes, scores, classes = self._take(boxes, self._suppress(boxes, scores, classes), classes)
        boxes = self._clip(boxes, images)
        # A box outside of the image has no area left; Detectron2 drops it after the limit of detections.
        has_area = ((boxes[..., 2:] - boxes[..., :2]) > 0).all(dim=-1)
        boxes, scores, classes = self._take(boxes, torch.where(has_area, scores, -1.0), classes)
        found = scores >= 0
        return boxes * found[..., None], scores * found, classes * found, found.sum(dim=1)

    def _candidates(self, anchors, logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The K best (anchor, class) pairs of one level: boxes (N, K, 4), scores (N, K), classes (N, K).

        K is `test_topk_candidates` whatever the size of the map; scores of -1 fill up.
        """
        model = self.model
        logits, deltas = _per_anchor(logits, model.num_classes), _per_anchor(deltas, 4)
        scores = F.pad(logits.float().sigmoid().flatten(1), (0, model.test_topk_candidates), value=-1.0)
        scores, pair = scores.topk(model.test_topk_candidates, dim=1)
        pair = torch.where(scores >= 0, pair, 0)
        anchor = pair // model.num_classes
        chosen = deltas.gather(1, anchor[..., None].expand(-1, -1, 4))
        boxes = model.box2box_transform.apply_deltas(chosen.flatten(0, 1), anchors.tensor[anchor.flatten()])
        return boxes.unflatten(0, (-1, model.test_topk_candidates)), scores, pair % model.num_classes

    def _suppress(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
        """Scores (N, M) with -1 in place of those under the threshold and those that NMS suppresses."""
        model = self.model
        count, total = scores.shape[1], scores.shape[0] * scores.shape[1]
        place = (scores > model.test_score_thresh).flatten().nonzero().squeeze(1)
        # One NMS for all images and classes: each group of boxes lies apart from the others. In float64, so that
        # large offsets cost no precision.
        image = torch.arange(scores.shape[0], device=scores.device)[:, None]
        group = (classes + image * model.num_classes).flatten()[place]
        boxes = boxes.flatten(0, 1).double()
        low, high = boxes.min(), boxes.max()
        apart = boxes[place] - low + (group * (high - low + 1.0))[:, None]
        # Two more boxes, apart from all: the exported operator promises two survivors at least.
        corner = torch.tensor([[-4.0], [-2.0]], dtype=torch.float64, device=boxes.device)
        apart = torch.cat([apart, corner + corner.new_tensor([[0.0, 0.0, 1.0, 1.0]])])
        place = torch.cat([place, place.new_full((2,), total)])
        ranks = torch.cat([scores.flatten(), scores.new_full((1,), -1.0)])[place].double()
        survivors = place[torch.ops.torchvision.nms(apart, ranks, model.test_nms_thresh)]
        kept = torch.zeros(total + 1, dtype=torch.bool, device=boxes.device).index_fill(0, survivors, True)
        return torch.where(kept[:total].unflatten(0, (-1, count)), scores, -1.0)

    def _take(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The `max_detections_per_image` best by score, filled up with scores of -1."""
        limit = self.model.max_detections_per_image
        missing = max(0, limit - scores.shape[1])
        boxes, classes = F.pad(boxes, (0, 0, 0, missing)), F.pad(classes, (0, missing))
        scores, order = F.pad(scores, (0, missing), value=-1.0).topk(limit, dim=1)
        return boxes.gather(1, order[..., None].expand(-1, -1, 4)), scores, classes.gather(1, order)

    @staticmethod
    def _clip(boxes: Tensor, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        x, y = boxes[..., 0::2].clamp(min=0, max=width), boxes[..., 1::2].clamp(min=0, max=height)
        return torch.stack((x, y), dim=-1).flatten(-2)


def _per_anchor(maps: Tensor, size: int) -> Tensor:
    """(N, A * size, H, W) to (N, H * W * A, size), in the order of the anchors."""
    return maps.unflatten(1, (-1, size)).permute(0, 3, 4, 1, 2).flatten(1, 3)
