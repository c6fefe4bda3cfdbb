"""Whether an exported program finds what the detector finds, seen on images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradet.errors import UserError
from loradet.export.exportable.base import Exportable

PIXELS, SCORE = 0.1, 1e-4
# A pair of boxes this near to the limit of NMS, or a score to the last one that is taken, may fall either way.
_NEAR = 2e-5

Program = Callable[..., Sequence[Tensor]]


class UnequalError(UserError):
    """An exported program that finds other boxes than the detector does."""


@dataclass(frozen=True)
class Equality:
    """What was compared.

    Attributes:
        images: number of them.
        detections: number of the detector's own.
        pixels: largest difference of a coordinate.
        score: largest difference of scores.
    """

    images: int
    detections: int
    pixels: float
    score: float


def check_equal(
    program: Program, model: nn.Module, form: Exportable, sizes: Sequence[tuple[int, int]], *, batch: int = 1
) -> Equality:
    """Compare a program with the detector that it is made of, on blotches of colour.

    Args:
        program: takes what the form takes, gives what it gives.
        model: the detector, in eval mode; it sees each image alone.
        form: of the detector.
        sizes: (height, width) of the images, which the program takes.
        batch: images that the program takes at a time.

    Raises:
        UnequalError: a detection of either side has no partner: a box of the same class within 0.1 pixel whose score is
            within 1e-4.
    """
    worst, count = torch.zeros(2), 0
    for height, width in sizes:
        images = [_blotches(height, width, seed) for seed in range(batch)]
        more = (torch.tensor([[height, width]] * batch),) if "sizes" in form.inputs else ()
        with torch.no_grad():
            boxes, scores, classes, counts = program(torch.stack(images), *more)
        for i, image in enumerate(images):
            own = image.flip(0) if form.is_bgr else image
            with torch.no_grad():
                found = model([{"image": own, "height": height, "width": width}])[0]["instances"].to("cpu")
            ours = found.pred_boxes.tensor, found.scores, found.pred_classes
            taken = int(counts[i])
            theirs = boxes[i, :taken], scores[i, :taken], classes[i, :taken]
            for one, other in ((ours, theirs), (theirs, ours)):
                worst = torch.maximum(worst, _partners(one, other, boxes.shape[1], (height, width)))
            count += len(found)
    return Equality(batch * len(sizes), count, *worst.tolist())


def _partners(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], limit: int, size: tuple[int, int]) -> Tensor:
    """The largest difference in pixels and in score between each detection and its partner."""
    boxes, scores, classes = ours
    if len(boxes) == limit:  # the last ones may have been exchanged for others of that score
        certain = scores > scores.min() + _NEAR
        boxes, scores, classes = boxes[certain], scores[certain], classes[certain]
    if not len(boxes):
        return torch.zeros(2)
    pixels = (boxes[:, None] - theirs[0][None]).abs().amax(2)
    score = (scores[:, None] - theirs[1][None]).abs()
    pixels = torch.where(classes[:, None] == theirs[2][None], pixels, float("inf"))
    cost = torch.maximum(pixels / PIXELS, score / SCORE)
    near, partner = cost.min(1) if cost.shape[1] else (torch.full((len(boxes),), float("inf")), None)
    alone = near > 1
    if alone.any():
        height, width = size
        row = int(alone.nonzero()[0])
        raise UnequalError(
            f"on an image of {height}x{width} (height x width) {int(alone.sum())} of {len(boxes)} detections have no "
            f"equal, as class {int(classes[row])} with score {float(scores[row]):.4f}"
        )
    rows = torch.arange(len(boxes))
    return torch.stack([pixels[rows, partner].max(), score[rows, partner].max()])


def _blotches(height: int, width: int, seed: int) -> Tensor:
    """(3, height, width), float32 in 0..255."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (1, 3, height // 16 + 2, width // 16 + 2), generator=generator)
    return F.interpolate(noise.float(), (height, width), mode="bicubic", align_corners=False)[0].clamp(0, 255).round()
