"""Whether an exported program finds what the detector finds, seen on images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradet.errors import UserError
from loradet.export.exportable.base import Exportable

PIXELS, SCORE = 0.1, 1e-4
MOST_UNMATCHED = 0.01
_NEAR = 2e-5  # to the last score that is taken, which another's may have taken the place of

Program = Callable[..., Sequence[Tensor]]


class UnequalError(UserError):
    """An exported program that finds other boxes than the detector does."""


@dataclass
class Equality:
    """What was compared.

    Attributes:
        images: number of them.
        detections: number of the detector's own.
        unmatched: of how many detections of either side the other has no equal.
        pixels: largest difference of a coordinate, of the others.
        score: largest difference of scores, of the others.
    """

    images: int = 0
    detections: int = 0
    unmatched: int = 0
    pixels: float = 0.0
    score: float = 0.0


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
        UnequalError: more than a hundredth of the detections of either side have no partner: a box of the same class
            within 0.1 pixel whose score is within 1e-4. Few may have none: two boxes that overlap by just as much as
            NMS allows fall this way or that by the last digit.
    """
    result = Equality()
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
            result.images += 1
            result.detections += _match(ours, theirs, boxes.shape[1], result)
            _match(theirs, ours, boxes.shape[1], result)
            if result.unmatched > MOST_UNMATCHED * result.detections:
                raise UnequalError(
                    f"on an image of {height}x{width} (height x width) {result.unmatched} detections have no equal; "
                    f"the detector found {len(found)} there"
                )
    return result


def _match(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], limit: int, result: Equality) -> int:
    """Look for a partner of each detection, put what is found into `result`; returns how many were looked at."""
    boxes, scores, classes = ours
    if len(boxes) == limit:  # the last ones may have been exchanged for others of that score
        certain = scores > scores.min() + _NEAR
        boxes, scores, classes = boxes[certain], scores[certain], classes[certain]
    if not len(boxes) or not len(theirs[0]):
        result.unmatched += len(boxes)
        return len(boxes)
    pixels = (boxes[:, None] - theirs[0][None]).abs().amax(2)
    score = (scores[:, None] - theirs[1][None]).abs()
    pixels = torch.where(classes[:, None] == theirs[2][None], pixels, float("inf"))
    distance, partner = torch.maximum(pixels / PIXELS, score / SCORE).min(1)
    rows = (distance <= 1).nonzero().squeeze(1)
    result.unmatched += len(boxes) - len(rows)
    if len(rows):
        result.pixels = max(result.pixels, float(pixels[rows, partner[rows]].max()))
        result.score = max(result.score, float(score[rows, partner[rows]].max()))
    return len(boxes)


def _blotches(height: int, width: int, seed: int) -> Tensor:
    """(3, height, width), float32 in 0..255."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (1, 3, height // 16 + 2, width // 16 + 2), generator=generator)
    return F.interpolate(noise.float(), (height, width), mode="bicubic", align_corners=False)[0].clamp(0, 255).round()
