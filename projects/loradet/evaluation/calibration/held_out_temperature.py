"""Temperature scaling of a split by itself: what scales an image's scores was never fitted on that image."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loradet.evaluation.calibration.temperature import Temperature, fit_temperature
from loradet.evaluation.correctness import JudgedDetections


@dataclass(frozen=True)
class HeldOutTemperature:
    """Temperatures of the two halves of a split's images, each for the other half.

    Attributes:
        whole: fitted on all images: the one for other splits and for new images. It scales nothing here.
        halves: fitted on the images of half 0 and of half 1.
        half_of_image: (I,) 0 or 1.
    """

    whole: Temperature
    halves: tuple[Temperature, Temperature]
    half_of_image: np.ndarray

    @property
    def value(self) -> float:
        """Of `whole`."""
        return self.whole.value

    @property
    def label(self) -> str:
        """Of a diagram."""
        return f"temperature of the other half ({self.halves[1].value:.3f}, {self.halves[0].value:.3f})"

    def scale(self, detections: JudgedDetections) -> JudgedDetections:
        """The detections with scores that are scaled by the temperature of the other half of the images."""
        half = self.half_of_image[detections.images]
        scaled = [temperature.apply(detections.scores) for temperature in self.halves]
        return detections.with_scores(np.where(half == 0, scaled[1], scaled[0]))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what `whole` says, and the halves."""
        return {**self.whole.to_dict(), "halves": [one.to_dict() for one in self.halves]}

    def __str__(self) -> str:
        first, second = self.halves
        notes = "".join(f"; {one.note}" for one in (first, second) if one.note)
        return (
            f"temperature {second.value:.4f} and {first.value:.4f}: each half of the images is scaled by what the "
            f"other half gives{notes}. All images give {self.whole.value:.4f}, for other splits"
        )


def fit_held_out(detections: JudgedDetections, image_ids: Sequence[Any]) -> HeldOutTemperature:
    """Fit a temperature on each half of the images, and on all.

    Args:
        detections: of all images.
        image_ids: I of them; which half an image is in depends on these alone.
    """
    half_of_image = image_halves(image_ids)
    half = half_of_image[detections.images]
    parts = [detections.where(half == number) for number in (0, 1)]
    first, second = (fit_temperature(part.scores, part.correct) for part in parts)
    return HeldOutTemperature(fit_temperature(detections.scores, detections.correct), (first, second), half_of_image)


def image_halves(image_ids: Sequence[Any]) -> np.ndarray:
    """0 or 1 for each image (I,): the ids in the order of their sha256, 0 and 1 in turn, so that both are as large."""
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in image_ids]
    halves = np.zeros(len(digests), np.int64)
    halves[np.array(sorted(range(len(digests)), key=digests.__getitem__), np.int64)[1::2]] = 1
    return halves
