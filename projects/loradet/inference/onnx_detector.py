"""An exported ONNX file as a detector of image files, without torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loradet.datasets.images.intensity import Intensity
from loradet.errors import UserError
from loradet.export.batching import make_batch, read_resized, run_in_groups, small_images_named
from loradet.export.classes import Classes
from loradet.export.metadata import read_metadata
from loradet.export.onnx_session import OnnxSession
from loradet.export.resizing import Resizing


@dataclass(frozen=True)
class Detections:
    """What was found in an image, by falling score.

    Attributes:
        boxes: (N, 4) float32, XYXY in pixels of the image as it is shown, clipped to it.
        scores: (N,) float32.
        classes: (N,) int64, class numbers.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: np.ndarray) -> "Detections":
        return Detections(self.boxes[chosen], self.scores[chosen], self.classes[chosen])


@dataclass(frozen=True)
class Sample:
    """An image, read and resized.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        height, width: of the file, as it is shown.
    """

    image: np.ndarray
    height: int
    width: int


class OnnxDetector:
    """Reads images as the training's test images were read, and runs the file on them.

    Attributes:
        metadata: as `export_detector` wrote them.
        classes: of the model.
        intensity: the rule that images are read by.
    """

    def __init__(self, path: str | os.PathLike, *, device: str = "cpu", threads: int = 0):
        """
        Args:
            path: `.onnx` file that `loradet export` wrote.
            device, threads: see `OnnxSession`.

        Raises:
            FileNotFoundError: there is no such file.
            UserError: it was not written by `loradet export`, is broken, or onnxruntime is not installed.
        """
        path = Path(path)
        if path.suffix != ".onnx":
            raise UserError(f"{path}: expected a file of `loradet export` that ends in .onnx.")
        self.metadata = read_metadata(path)
        self.classes = Classes.of_metadata(self.metadata)
        self.intensity = Intensity.parse(self.metadata["intensity"])
        self._resizing = Resizing.from_dict(self.metadata["resize"])
        self._session = OnnxSession(path, device=device, threads=threads)

    def read(self, file: str | os.PathLike) -> Sample:
        """An image file, upright, resized by Pillow.

        Raises:
            OSError: it cannot be read; the message names it.
            UserError: a model of fixed size does not take it, see `loradet.export.batching.check_fits`.
        """
        image, (height, width) = read_resized(file, self._resizing, self.intensity, self.metadata["input"])
        return Sample(image, height, width)

    def __call__(self, samples: Sequence[Sample]) -> list[Detections]:
        """Detections of each image."""
        sizes = [sample.image.shape[:2] for sample in samples]
        return run_in_groups(self._run, samples, sizes, self.metadata["input"])

    def _run(self, samples: Sequence[Sample]) -> list[Detections]:
        images, sizes = make_batch([sample.image for sample in samples], self.metadata)
        with small_images_named(self.metadata["input"], images.shape[-2:], "An image"):
            boxes, scores, classes, counts = self._session(images, sizes)
        results = []
        for i, (sample, size, count) in enumerate(zip(samples, sizes, counts)):
            scaled, kept = _to_file(boxes[i, :count], size, (sample.height, sample.width))
            results.append(Detections(scaled, scores[i, :count], classes[i, :count])[kept])
        return results


def _to_file(boxes: np.ndarray, size: np.ndarray, target: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of a resized image in pixels of its file, clipped, and which of them have an area."""
    scale = np.array([target[1] / size[1], target[0] / size[0]] * 2, np.float32)
    limit = np.array([target[1], target[0]] * 2, np.float32)
    boxes = np.clip(boxes * scale, np.float32(0), limit)
    return boxes, (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
