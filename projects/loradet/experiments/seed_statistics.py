"""Statistics over the seeds of an experiment."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Mean and spread of one number over runs.

    Attributes:
        mean: of the runs.
        std: sample standard deviation (n - 1 in the denominator); None for a single run.
        n: number of runs.
    """

    mean: float
    std: float | None
    n: int

    def text(self, digits: int = 3) -> str:
        """As `0.523 ± 0.028 (3)`; `0.523 (1)` for a single run."""
        spread = "" if self.std is None else f" ± {self.std:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread} ({self.n})"


def summarize(values: Iterable[float | None]) -> Summary | None:
    """Mean and sample standard deviation of the values that are numbers; None where there are none."""
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return Summary(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class PairedDifference:
    """How far two experiments lie apart on the seeds that both have run.

    Attributes:
        mean: of first minus second, seed by seed.
        low, high: ends of the confidence interval of that mean; None with fewer than two seeds.
        seeds: the shared ones.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: tuple[int, ...]


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float = 0.95
) -> PairedDifference | None:
    """Difference of two experiments by seed, with Student's interval of its mean.

    mean ± t · s / √n, with the sample standard deviation s of the n differences and t of n - 1 degrees of freedom
    (https://www.itl.nist.gov/div898/handbook/prc/section2/prc221.htm); it takes the differences for normally
    distributed.

    Args:
        first, second: seed -> value.
        confidence: of the interval, in 0..1.

    Returns:
        None where no seed is shared, NaN left out.
    """
    seeds = tuple(s for s in sorted(first.keys() & second.keys()) if math.isfinite(first[s] - second[s]))
    summary = summarize(first[seed] - second[seed] for seed in seeds)
    if summary is None:
        return None
    if summary.std is None:
        return PairedDifference(summary.mean, None, None, seeds)
    half = student_t_bound(summary.n - 1, confidence) * summary.std / math.sqrt(summary.n)
    return PairedDifference(summary.mean, summary.mean - half, summary.mean + half, seeds)


def student_t_bound(degrees: int, confidence: float = 0.95) -> float:
    """The t for which a Student-distributed number lies in [-t, t] with probability `confidence`.

    Raises:
        ValueError: fewer than one degree of freedom, or a confidence outside of 0..1.
    """
    if degrees < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"degrees={degrees}, confidence={confidence}: expected at least 1, and a number between 0 and 1."
        )
    low, high = 0.0, math.pi / 2
    for _ in range(80):  # halvings: more than a float has bits
        middle = (low + high) / 2
        if _central_probability(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _central_probability(theta: float, degrees: int) -> float:
    """P(|T| < √degrees · tan θ): the finite series 26.7.3 and 26.7.4 of Abramowitz and Stegun."""
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(1 if odd else 0, degrees - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    return 2 / math.pi * (theta + sine * total) if odd else sine * total
