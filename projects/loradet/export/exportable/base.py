"""What exportable forms of detectors share."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from loradet.backbones.timm_vit import TimmViT
from loradet.errors import UserError
from loradet.export.padding import Padding

OUTPUTS = ("boxes", "scores", "classes", "counts")


class Exportable(nn.Module):
    """Images to padded detections, without data-dependent shapes at either end.

    A subclass has `forward(images)`, or `forward(images, sizes)` with `inputs` saying so, and `limits()`.

    Attributes:
        inputs: names of what `forward` takes. `images` (N, 3, H, W) float32 RGB in 0..255; `sizes` (N, 2) int64, height
            and width of each image within the padded batch.
        score_threshold: detections with scores that are not larger are left out; None where all are given. A form that
            has one can set it.
        any_size: whether a program may be right for other heights, widths and batches than it was made with.
        exporters: torch's exporters to ONNX to try, "torchscript" or "dynamo", the first first.
        for_onnx: whether it is on its way to ONNX: then it pads images itself, and NMS is ONNX's operator. Else H and W
            are multiples of `multiple_of`.

    Args:
        model: a built detector without LoRA layers, in eval mode.
        image_format: channel order that it takes, where it does not say so itself.

    Raises:
        UserError: a detector in training mode.
    """

    inputs: tuple[str, ...] = ("images",)
    any_size: bool = True
    exporters: tuple[str, ...] = ("torchscript",)
    score_threshold: float | None = None

    def __init__(self, *, model: nn.Module, image_format: str = "RGB"):
        super().__init__()
        if model.training:
            raise UserError("Call model.eval() before the export.")
        self.model = model
        self.is_bgr = (getattr(model, "input_format", None) or image_format) == "BGR"
        self.for_onnx = False
        self.eval()  # exporters bring the mode back that they find, of the model too

    @property
    def multiple_of(self) -> int:
        """What the backbone wants height and width to be multiples of, or the ViT within it that pads by itself."""
        backbone = self.model.backbone
        own = getattr(backbone, "padding_constraints", {}).get("size_divisibility", backbone.size_divisibility)
        inner = [one.size_divisibility for one in backbone.modules() if isinstance(one, TimmViT)]
        return own or max(1, *inner, 1)

    @property
    def fixed_size(self) -> tuple[tuple[int, int], str] | None:
        """(height, width) of all images where the detector takes no other, and why."""
        square = getattr(self.model.backbone, "padding_constraints", {}).get("square_size", 0)
        return ((square, square), f"the backbone takes squares of {square} pixels") if square else None

    @property
    def padding(self) -> Padding | None:
        """How the detector pads an image, where its network does not tell padding from image; else None."""
        return None

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the least that the backbone takes an image of this size in."""
        height, width = (-(-side // self.multiple_of) * self.multiple_of for side in size)
        return height, width

    def limits(self) -> dict[str, Any]:
        """Thresholds for the file's metadata: `score_threshold`, `max_detections` and others."""
        raise NotImplementedError(f"{type(self).__name__} does not say its limits.")

    def prepare(self, images: Tensor) -> Tensor:
        """Images as the backbone takes them: in the model's channel order, normalised, padded where that is due."""
        model = self.model
        if self.is_bgr:
            images = images.flip(1)
        images = (images - model.pixel_mean) / model.pixel_std
        if not self.for_onnx or self.multiple_of == 1:
            return images
        bottom, right = (-side % self.multiple_of for side in images.shape[-2:])
        return F.pad(images, (0, right, 0, bottom))


def per_anchor(maps: Tensor, size: int) -> Tensor:
    """(N, A * size, H, W) to (N, H * W * A, size), in the order of the anchors."""
    return maps.unflatten(1, (-1, size)).permute(0, 3, 4, 1, 2).flatten(1, 3)
