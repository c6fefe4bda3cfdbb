"""Random brightness, contrast, saturation and hue in one pass over the image."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from detectron2.data import transforms as T

from loradet.errors import UserError

# (Y, I, Q) of (R, G, B), NTSC's, see https://en.wikipedia.org/wiki/YIQ: a hue is an angle in the plane of I and Q.
_TO_YIQ = np.array(((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)))
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
_FROM_YIQ[:, 0] = 1.0  # exactly, so that grey stays grey
# OpenCV maps colours by whole multiples of this; of numbers that are such its pixels are those of any build.
_PART = 1 / 1024
_FORMATS = ("RGB", "BGR", "L")


@dataclass(frozen=True, eq=False)
class ColorMap:
    """An affine map of colours: `matrix` @ colour + `offset` for each pixel, rounded and clipped to 0..255.

    A grey image (one channel, or three equal ones) becomes `gain` * value + `offset`: its channels stay equal.

    Attributes:
        matrix: (3, 3), in the channel order of the image.
        gain: what the matrix multiplies grey by.
        offset: levels.
    """

    matrix: np.ndarray
    gain: float
    offset: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Map (H, W, 1) or (H, W, 3) uint8 into a new image of that shape."""
        if _is_grey(image):
            levels = np.arange(256) * self.gain + self.offset
            table = np.rint(levels).clip(0, 255).astype(np.uint8)
            return cv2.LUT(np.ascontiguousarray(image), table).reshape(image.shape)
        affine = np.column_stack([self.matrix, np.full(3, self.offset)])
        return cv2.transform(np.ascontiguousarray(image), np.rint(affine / _PART) * _PART)


class RandomColor(T.Augmentation):
    """Change brightness, contrast, saturation and hue, each with probability `prob` and independently.

    Brightness multiplies the values. Contrast moves them from or towards the image's mean luma. Saturation scales how
    far a colour is from grey, hue turns it about grey; both keep the luma, and leave grey images (SAR, thermal, X-ray)
    as they are. All of it is one affine map of colours, in NTSC's YIQ.

    Args:
        brightness, contrast, saturation: factors are drawn from [1 - x, 1 + x), 0 to 1; 0 leaves it out.
        hue: the largest turn either way, as a fraction of the whole circle, 0 to 0.5.
        prob: how often each of them happens.
        image_format: the channels of the images: "RGB", "BGR" or "L".

    Raises:
        UserError: a value out of its range, or another format.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.3,
        contrast: float = 0.3,
        saturation: float = 0.3,
        hue: float = 0.02,
        prob: float = 0.5,
        image_format: str = "RGB",
    ) -> None:
        super().__init__()
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue
        self.prob = prob
        self.image_format = image_format
        self._check()

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw a map for an image (H, W, 1) or (H, W, 3), uint8; NoOpTransform where nothing happens.

        Raises:
            UserError: the image has other channels, or other values than of eight bits.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
            raise UserError(f"RandomColor takes images (H, W, 1 or 3) of eight bits, got {image.dtype} {image.shape}.")
        # As many numbers for every image, whatever happens to it.
        happens = np.random.uniform(size=4) < self.prob
        drawn = np.random.uniform(-1.0, 1.0, size=4) * happens
        brightness, contrast, saturation = 1.0 + drawn[:3] * (self.brightness, self.contrast, self.saturation)
        turn = 2 * math.pi * drawn[3] * self.hue
        if not happens.any():
            return T.NoOpTransform()
        gain = brightness * contrast
        offset = (1.0 - contrast) * brightness * self._mean_luma(image)
        return T.ColorTransform(ColorMap(self._matrix(gain, saturation, turn), gain, offset))

    def _matrix(self, gain: float, saturation: float, turn: float) -> np.ndarray:
        cosine, sine = saturation * math.cos(turn), saturation * math.sin(turn)
        in_yiq = np.array(((1.0, 0.0, 0.0), (0.0, cosine, -sine), (0.0, sine, cosine)))
        matrix = gain * (_FROM_YIQ @ in_yiq @ _TO_YIQ)
        return matrix[::-1, ::-1] if self.image_format == "BGR" else matrix

    def _mean_luma(self, image: np.ndarray) -> float:
        means = cv2.mean(np.ascontiguousarray(image))[: image.shape[2]]
        if len(means) == 1:
            return means[0]
        return float(_TO_YIQ[0] @ (means[::-1] if self.image_format == "BGR" else means))

    def _check(self) -> None:
        strengths = {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation}
        for name, value in {**strengths, "prob": self.prob}.items():
            if not 0 <= value <= 1:
                raise UserError(f"RandomColor: {name}={value}: expected 0 to 1.")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"RandomColor: hue={self.hue}: expected a fraction of the circle from 0 to 0.5.")
        if self.image_format not in _FORMATS:
            raise UserError(f"RandomColor: image_format={self.image_format!r}: expected one of {', '.join(_FORMATS)}.")


def _is_grey(image: np.ndarray) -> bool:
    if image.shape[2] == 1:
        return True
    first = image[..., 0]
    # One row tells most coloured images apart.
    return all(np.array_equal(first[:1], image[:1, :, c]) and np.array_equal(first, image[..., c]) for c in (1, 2))
