"""Percentile bootstrap of COCO's metrics over images."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loradet.errors import UserError
from loradet.evaluation.coco_accumulate import AccumulatedMatches

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A metric (or a difference of two), and its percentile interval.

    Attributes:
        value: on the images as they are; NaN where there is nothing to find.
        mean: over the resamples; precision at a recall is a maximum, which repeated images raise a little.
        low, high: of the interval; NaN, as the mean, where no resample has the metric.
        resamples: that have it.
        share_not_above_zero: of the resamples: small where a difference is surely positive.
    """

    value: float
    mean: float
    low: float
    high: float
    resamples: int
    share_not_above_zero: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON; NaN is None."""
        return {name: None if math.isnan(value) else value for name, value in vars(self).items()}


def summarize_coco(
    precision: np.ndarray, recall: np.ndarray, matches: AccumulatedMatches, class_names: Mapping[Any, str]
) -> dict[str, float]:
    """Metrics of accumulated matches as fractions, NaN where there is nothing to find.

    Args:
        precision, recall: (T, R, K, A) and (T, K, A) of `AccumulatedMatches.accumulate`.
        class_names: by category id.

    Returns:
        `mAP`, `mAP_50`, `mAP_75`, and, as far as the matches have these areas, `mAP_s`, `_m`, `_l`; `AR@100`, or of
        as many detections as count; and `mAP/<class>` for each class.
    """
    everywhere = matches.areas.index("all")
    metrics = {"mAP": _mean(precision[..., everywhere])}
    for percent in (50, 75):
        metrics[f"mAP_{percent}"] = _mean(precision[np.isclose(matches.iou_thresholds, percent / 100)][..., everywhere])
    for area, name in enumerate(matches.areas):
        if area != everywhere:
            metrics[f"mAP_{name[0]}"] = _mean(precision[..., area])
    metrics[f"AR@{matches.max_detections}"] = _mean(recall[..., everywhere])
    names = [class_names[number] for number in matches.category_ids]
    return metrics | {f"mAP/{name}": _mean(precision[:, :, k, everywhere]) for k, name in enumerate(names)}


def bootstrap_metrics(
    matches: AccumulatedMatches,
    class_names: Mapping[Any, str],
    *,
    resamples: int,
    seed: int = 0,
    level: float = LEVEL,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Interval]:
    """Percentile intervals of a detector's metrics.

    As many images as there are, are drawn with replacement; COCO's matching of an image stays what it is, only how
    often it counts changes. Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    Args:
        matches: with as many detections of a class in an image as count.
        class_names: by category id.
        resamples: how many; 1,000 or more for the ends of a 95 % interval.
        seed: the same gives the same numbers.
        level: share of the resamples between `low` and `high`.
        progress: called with the number of each finished resample.

    Returns:
        By the names of `summarize_coco`.

    Raises:
        ValueError: no images, or a number out of its range.
    """
    _check(matches, resamples, level)
    whole = summarize_coco(*matches.accumulate(), matches, class_names)
    drawn = []
    for number, weights in enumerate(_draws(len(matches.image_ids), resamples, seed), start=1):
        drawn.append(summarize_coco(*matches.accumulate(weights), matches, class_names))
        progress(number)
    return {name: _interval(value, [one[name] for one in drawn], level) for name, value in whole.items()}


def bootstrap_difference(
    first: AccumulatedMatches,
    second: AccumulatedMatches,
    class_names: Mapping[Any, str],
    *,
    resamples: int,
    seed: int = 0,
    level: float = LEVEL,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Interval]:
    """Percentile intervals of the first detector's metrics minus the second's, both on the same drawn images.

    What makes an image easy or hard for both cancels, so that the interval is narrower than two of their own say.
    Arguments and errors are those of `bootstrap_metrics`; besides, the two must be of the same images and categories.
    """
    if (first.image_ids, first.category_ids, first.areas) != (second.image_ids, second.category_ids, second.areas):
        raise UserError("A paired bootstrap needs two detectors on the same images and categories.")
    _check(first, resamples, level)

    def difference(weights: np.ndarray | None) -> dict[str, float]:
        ours, theirs = (summarize_coco(*one.accumulate(weights), one, class_names) for one in (first, second))
        return {name: value - theirs[name] for name, value in ours.items()}

    whole, drawn = difference(None), []
    for number, weights in enumerate(_draws(len(first.image_ids), resamples, seed), start=1):
        drawn.append(difference(weights))
        progress(number)
    return {name: _interval(value, [one[name] for one in drawn], level) for name, value in whole.items()}


def _check(matches: AccumulatedMatches, resamples: int, level: float) -> None:
    if not matches.image_ids:
        raise UserError("There are no images to draw from.")
    if resamples < 1 or not 0 < level < 1:
        raise UserError(f"Expected 1 resample or more and a level inside 0..1, got {resamples} and {level}.")


def _draws(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image (I,) is drawn."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(images, size=images), minlength=images)


def _interval(value: float, drawn: Sequence[float], level: float) -> Interval:
    known = np.array([one for one in drawn if not math.isnan(one)])
    if not len(known):
        return Interval(value, math.nan, math.nan, math.nan, 0, math.nan)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(known.mean()), float(low), float(high), len(known), float(np.mean(known <= 0)))


def _mean(values: np.ndarray) -> float:
    """Mean of what is not -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else math.nan
