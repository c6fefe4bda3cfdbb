"""Statistics over the seeds of an experiment."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scipy import special

from loradet.evaluation.cells import NOTHING


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
    mean, n = statistics.fmean(known), len(known)
    # statistics.stdev computes in fractions, which takes ten times as long.
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (n - 1)) if n > 1 else None
    return Summary(mean, std, n)


def interval_of_mean(summary: Summary, confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of a mean, mean ± t · s / √n; None for a single run."""
    if summary.std is None:
        return None
    half = _half_width(summary, confidence)
    return summary.mean - half, summary.mean + half


def _half_width(summary: Summary, confidence: float) -> float:
    return reach(summary.n, confidence) * summary.std


def reach(n: int, confidence: float = 0.95) -> float:
    """How many sample standard deviations the interval of a mean of n values reaches to each side: t / √n."""
    # Student's quantile; importing scipy.stats for it would take longer than a status of a thousand runs.
    return float(special.stdtrit(n - 1, (1 + confidence) / 2)) / math.sqrt(n)


def summary_cell(summary: Summary | None, digits: int = 3) -> str:
    """`Summary.text` as the cell of a table, `NOTHING` for None."""
    return NOTHING if summary is None else summary.text(digits)


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
    half = _half_width(summary, confidence)
    return PairedDifference(summary.mean, summary.mean - half, summary.mean + half, seeds)
