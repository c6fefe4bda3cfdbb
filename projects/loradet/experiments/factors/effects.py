"""Main effects and two-way interactions of a factorial design, by least squares."""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from loradet.experiments.results.seed_statistics import Summary, summarize

CONFIDENCE = 0.95
Level = Hashable
Terms = tuple[str, ...]  # one factor, or two that interact


@dataclass(frozen=True)
class Observation:
    """One run: the level of each factor, and what it came to."""

    levels: Mapping[str, Level]
    value: float


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How far a level, or a pair of levels, lies from what the terms below it give.

    Attributes:
        factors, levels: one of each, or two for an interaction.
        estimate: of a level: its marginal mean minus the mean of all levels; of a pair: the mean of the pair minus
            what the two levels' own effects add up to.
        standard_error, low, high: with Student's 95 % interval; None without replicates.
    """

    factors: Terms
    levels: tuple[Level, ...]
    estimate: float
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class VarianceRow:
    """A line of the analysis of variance.

    Attributes:
        name: the factors of a term, joined by " × "; "higher orders", or "within cells (seeds)".
        degrees: of freedom.
        sum_of_squares: of a term, what the residual sum of squares grows by without it.
        share: of the total sum of squares (eta squared); None where nothing varies.
        f, p: against the variance within cells; None without replicates.
    """

    name: str
    degrees: int
    sum_of_squares: float
    share: float | None
    f: float | None = None
    p: float | None = None


@dataclass(frozen=True, kw_only=True)
class FactorialAnalysis:
    """What `analyse` has found.

    Attributes:
        mean: of all combinations, each counted once.
        effects: of every level, and of every pair of levels of the interactions.
        variance: terms first, then what no term explains.
        cells: levels in the order of the factors -> mean and spread of the runs there.
        left_out: interactions that the runs do not tell from other terms.
        balanced: every combination has the same number of runs; then the shares add up to 1.
    """

    factors: Mapping[str, tuple[Level, ...]]
    mean: float
    effects: tuple[Effect, ...]
    variance: tuple[VarianceRow, ...]
    cells: Mapping[tuple[Level, ...], Summary]
    left_out: tuple[Terms, ...]
    balanced: bool

    def marginal_mean(self, factor: str, level: Level) -> float:
        """Mean at a level, all combinations of the others counting the same."""
        effect = next(e for e in self.effects if e.factors == (factor,) and e.levels == (level,))
        return self.mean + effect.estimate

    def best_levels(self, baseline: Mapping[str, Level]) -> dict[str, Level]:
        """The level of each factor with the greatest marginal mean; of equals the baseline's, or else the first."""
        means = {name: {one: self.marginal_mean(name, one) for one in levels} for name, levels in self.factors.items()}
        return {name: greatest(of, baseline[name]) for name, of in means.items()}

    def best_cell(self) -> dict[str, Level]:
        """The combination with the greatest mean of its runs."""
        return dict(zip(self.factors, max(self.cells, key=lambda cell: self.cells[cell].mean)))


def greatest(means: Mapping[Level, float], preferred: Level) -> Level:
    """The level with the greatest mean; of equals the preferred one, or else the first."""
    best = max(means, key=means.get)
    # Sums of the same numbers in another order differ in their last digits.
    is_equal = preferred in means and math.isclose(means[preferred], means[best], abs_tol=1e-9)
    return preferred if is_equal else best


def analyse(observations: Sequence[Observation], factors: Mapping[str, Sequence[Level]]) -> FactorialAnalysis | None:
    """Fit mean, main effects and two-way interactions with sum coding (the effects of a term add up to 0).

    Ordinary least squares; a term's sum of squares is that of leaving it out of the whole model (type III), which in a
    balanced design is the classic one (Montgomery, Design and Analysis of Experiments, chapter 5). The error that
    effects are held against is the variance within cells alone: without replicates there is no interval and no test,
    and what interactions of higher order do stands in a line of its own.

    Args:
        observations: of combinations; those without any are left out of the fit.
        factors: name -> levels, two or more of each.

    Returns:
        None where the runs do not tell the main effects apart, as where a level has no run.
    """
    factors = {name: tuple(levels) for name, levels in factors.items()}
    if not observations:
        return None
    values = np.array([one.value for one in observations], dtype=float)
    columns = {(): np.ones((len(values), 1))}
    columns |= {(name,): _coded(observations, name, levels) for name, levels in factors.items()}
    if not _is_independent(columns):
        return None
    left_out = []
    for pair in itertools.combinations(factors, 2):
        product = columns[pair[:1]][:, :, None] * columns[pair[1:]][:, None, :]
        longer = columns | {pair: product.reshape(len(values), -1)}
        if _is_independent(longer):
            columns = longer
        else:
            left_out.append(pair)
    cells = _cells(observations, factors)
    coefficients, residual = _fit(columns, values)
    within = float(sum((s.std or 0.0) ** 2 * (s.n - 1) for s in cells.values()))
    degrees = len(values) - len(cells)
    error = (within / degrees, degrees) if degrees else None
    return FactorialAnalysis(
        factors=factors,
        mean=float(coefficients[()][0]),
        effects=tuple(_effects(columns, coefficients, factors, error)),
        variance=tuple(_variance(columns, values, residual, within, error)),
        cells=cells,
        left_out=tuple(left_out),
        balanced=len({s.n for s in cells.values()}) == 1 and len(cells) == math.prod(map(len, factors.values())),
    )


def _coding(levels: Sequence[Level]) -> np.ndarray:
    """Sum coding: (levels, levels - 1); the last level is minus one in every column."""
    return np.vstack([np.eye(len(levels) - 1), -np.ones(len(levels) - 1)])


def _coded(observations: Sequence[Observation], name: str, levels: Sequence[Level]) -> np.ndarray:
    places = [levels.index(one.levels[name]) for one in observations]
    return _coding(levels)[places]


def _matrix(columns: Mapping[Terms, np.ndarray]) -> np.ndarray:
    return np.concatenate(list(columns.values()), axis=1)


def _is_independent(columns: Mapping[Terms, np.ndarray]) -> bool:
    matrix = _matrix(columns)
    return bool(np.linalg.matrix_rank(matrix) == matrix.shape[1])


def _fit(columns: Mapping[Terms, np.ndarray], values: np.ndarray) -> tuple[dict[Terms, np.ndarray], float]:
    """Coefficients of each term, and the residual sum of squares."""
    matrix = _matrix(columns)
    found = np.linalg.lstsq(matrix, values, rcond=None)[0]
    ends = np.cumsum([one.shape[1] for one in columns.values()])[:-1]
    return dict(zip(columns, np.split(found, ends))), float(((values - matrix @ found) ** 2).sum())


def _cells(observations: Sequence[Observation], factors: Mapping[str, Sequence[Level]]) -> dict[tuple, Summary]:
    found = {}
    for cell in itertools.product(*factors.values()):
        own = [one.value for one in observations if tuple(one.levels[name] for name in factors) == cell]
        if summary := summarize(own):
            found[cell] = summary
    return found


def _effects(
    columns: Mapping[Terms, np.ndarray],
    coefficients: Mapping[Terms, np.ndarray],
    factors: Mapping[str, Sequence[Level]],
    error: tuple[float, int] | None,
) -> list[Effect]:
    matrix = _matrix(columns)
    covariance = np.linalg.inv(matrix.T @ matrix)
    effects, start = [], 0
    for term, own in columns.items():
        block = slice(start, start + own.shape[1])
        start = block.stop
        rows = np.ones((1, 1))
        for name in term:
            rows = np.kron(rows, _coding(factors[name]))
        for levels, row in zip(itertools.product(*(factors[name] for name in term)), rows):
            estimate, more = float(row @ coefficients[term]), {}
            if error is not None:
                spread = math.sqrt(max(float(row @ covariance[block, block] @ row), 0.0) * error[0])
                half = special.stdtrit(error[1], (1 + CONFIDENCE) / 2) * spread
                more = {"standard_error": spread, "low": estimate - half, "high": estimate + half}
            if term:
                effects.append(Effect(factors=term, levels=levels, estimate=estimate, **more))
    return effects


def _variance(
    columns: Mapping[Terms, np.ndarray],
    values: np.ndarray,
    residual: float,
    within: float,
    error: tuple[float, int] | None,
) -> list[VarianceRow]:
    total = float(((values - values.mean()) ** 2).sum())
    rounding = 1e-24 * float((values**2).sum())

    def row(name: str, degrees: int, squares: float, tested: bool = True) -> VarianceRow:
        share = squares / total if total > rounding else None
        if error is None or not tested or error[0] <= rounding:
            return VarianceRow(name=name, degrees=degrees, sum_of_squares=squares, share=share)
        f = squares / degrees / error[0]
        p = float(special.fdtrc(degrees, error[1], f))
        return VarianceRow(name=name, degrees=degrees, sum_of_squares=squares, share=share, f=f, p=p)

    rows = []
    for term, own in columns.items():
        if term:
            without = _fit({other: block for other, block in columns.items() if other != term}, values)[1]
            rows.append(row(" × ".join(term), own.shape[1], max(without - residual, 0.0)))
    within_degrees = error[1] if error else 0
    higher = len(values) - within_degrees - _matrix(columns).shape[1]
    if higher:
        rows.append(row("higher orders", higher, max(residual - within, 0.0)))
    if within_degrees:
        rows.append(row("within cells (seeds)", within_degrees, within, tested=False))
    return rows
