"""Inference of a detector of transformers as a function of one tensor."""

from typing import Any

from torch import Tensor, nn

from loradet.export.exportable.base import Exportable
from loradet.export.exportable.detections import clip, finish
from loradet.export.padding import Padding

# torch's exporters to ONNX that give the detector's numbers, and whose programs do so at any size (torch 2.14,
# transformers 5.24); the numbers of every export are compared all the same.
_ANY_SIZE = ("d_fine", "rt_detr_v2", "deimv2")
EXPORTERS: dict[str, tuple[str, ...]] = {
    "d_fine": ("torchscript",),
    "rt_detr_v2": ("torchscript",),
    "deimv2": ("torchscript",),
    "deformable_detr": ("torchscript", "dynamo"),
    "rf_detr": ("dynamo",),
    "lw_detr": ("dynamo",),
}


class ExportableTransformersDetector(Exportable):
    """See `Exportable`. There is no NMS. Padding is part of what these networks see, and boxes are fractions of it."""

    def __init__(self, *, model: nn.Module, image_format: str = "RGB"):
        super().__init__(model=model, image_format=image_format)
        family = model.family.model_type
        self.exporters, self.any_size = EXPORTERS[family], family in _ANY_SIZE

    @property
    def multiple_of(self) -> int:
        """What backbone and decoder want height and width to be multiples of."""
        return self.model.canvas.divisor

    @property
    def fixed_size(self) -> tuple[tuple[int, int], str] | None:
        """As of the base class; and what all batches are padded to, where the model says so."""
        pad_to = self.model.canvas.pad_to
        return super().fixed_size if pad_to is None else (pad_to, f"model.pad_to is {list(pad_to)}")

    @property
    def padding(self) -> Padding:
        """As `Canvas` pads an image."""
        canvas = self.model.canvas
        at_least = (canvas.at_least, canvas.at_least) if canvas.pad_to is None else canvas.pad_to
        return Padding(canvas.divisor, canvas.is_square, at_least)

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """A square where the backbone takes no other."""
        return self.model.canvas.size([size], ["an image"])

    def limits(self) -> dict[str, Any]:
        model = self.model
        limit = model.max_detections_per_image or model.network.config.num_queries
        return {
            "score_threshold": 0.0,
            "max_detections": min(limit, model.network.config.num_queries * model.num_classes),
        }

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            images: (N, 3, H, W) float32 RGB in 0..255.

        Returns:
            boxes (N, D, 4), XYXY pixels, clipped to the image; scores (N, D), falling; classes (N, D) int64; counts
            (N,) int64. Of each image the first `counts` entries are detections, the others are zeros.
        """
        model = self.model
        batch = self.prepare(images)
        maps = model.backbone(batch)
        output = model.answer([maps[name] for name in model.maps], batch)
        boxes, scores, classes = model.best_pairs(output.logits, output.pred_boxes, batch.shape[-2:])
        return finish(clip(boxes, images.shape[-2], images.shape[-1]), scores, classes)
