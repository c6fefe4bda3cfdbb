"""Rules that bring the values of image files into 0..255, where the detectors' pixel statistics lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from loradet.datasets.images.header import SampleFormat
from loradet.errors import UserError

FORMS = "auto, full_range, [low,high] or percentile:1,99"


@dataclass(frozen=True)
class Intensity:
    """A rule; the same values of a file always become the same ones, but for percentiles, which are each image's own.

    Attributes:
        name: "auto", "full_range", "range" or "percentile". "auto" maps as "full_range" does; it differs in that data
            which would lose by it are refused before a run (`loradet.datasets.images.intensity_check`).
        low, high: of "range": values of the file that become 0 and 255; of "percentile": percents.
    """

    name: str = "auto"
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def parse(cls, value: Any) -> "Intensity":
        """A rule as configs write it.

        Raises:
            UserError: it is none.
        """
        if isinstance(value, Intensity):
            return value
        if value in ("auto", "full_range"):
            return cls(value)
        if isinstance(value, str) and value.startswith("percentile:"):
            ends = _numbers(value.removeprefix("percentile:").split(","))
            if ends is not None and 0 <= ends[0] < ends[1] <= 100:
                return cls("percentile", *ends)
            raise UserError(f"intensity={value!r}: expected two percents from 0 to 100, rising, as percentile:1,99.")
        if isinstance(value, Sequence) and not isinstance(value, str):
            ends = _numbers(value)
            if ends is not None and ends[0] < ends[1]:
                return cls("range", *ends)
            shown = list(value)
            raise UserError(f"intensity={shown}: expected [low,high], two numbers, the second one higher.")
        raise UserError(f"intensity={value!r}: expected {FORMS}.")

    def to_value(self) -> str | list[float]:
        """The rule as configs write it, plain enough for JSON and YAML."""
        if self.name == "range":
            return [_plain(self.low), _plain(self.high)]
        if self.name == "percentile":
            return f"percentile:{_plain(self.low)},{_plain(self.high)}"
        return self.name

    def __str__(self) -> str:
        value = self.to_value()
        return value if isinstance(value, str) else f"[{value[0]},{value[1]}]"

    def changes(self, samples: SampleFormat) -> bool:
        """Whether values of this format become others than they are."""
        return samples.is_deep or self.name in ("range", "percentile")

    def ends(self, values: np.ndarray, samples: SampleFormat) -> tuple[float, float]:
        """The values that become 0 and 255 in an image (any shape) of this format."""
        if self.name == "range":
            return self.low, self.high
        if self.name != "percentile":
            return samples.limits
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if not finite.size:
            return samples.limits
        # Values that occur: what lies between two of them depends on how they are scaled.
        low, high = np.percentile(finite, [self.low, self.high], method="nearest").tolist()
        return (low, high) if high > low else (low, low + max(abs(low), 1.0))

    def apply(self, values: np.ndarray, samples: SampleFormat) -> np.ndarray:
        """An image (any shape) as uint8: straight between the two ends, clipped outside of them; NaN becomes 0.

        Args:
            values: as the file has them.
            samples: their format.
        """
        if not self.changes(samples):
            return values
        low, high = self.ends(values, samples)
        if values.dtype in (np.uint8, np.uint16):
            return _scale(np.arange(np.iinfo(values.dtype).max + 1), low, high)[values]
        return _scale(values, low, high)


AUTO = Intensity()


def _scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    exact = values if values.dtype == np.float32 else values.astype(np.float64)
    # Divided first, so that twins of one scene, whose values are multiples of one another, give the same quotients.
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (exact - exact.dtype.type(low)) / exact.dtype.type(high - low)
        np.clip(scaled, 0.0, 1.0, out=scaled)
    scaled *= 255
    np.nan_to_num(scaled, copy=False, nan=0.0)
    return np.rint(scaled, out=scaled).astype(np.uint8)


def _numbers(values: Sequence[Any]) -> tuple[float, float] | None:
    try:
        numbers = [float(v) for v in values if isinstance(v, (Real, str)) and not isinstance(v, bool)]
    except ValueError:
        return None
    if len(values) != 2 or len(numbers) != 2 or not np.isfinite(numbers).all():
        return None
    return numbers[0], numbers[1]


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)
