"""Measures metrics, the bootstrap's matching and calibration against the same by pycocotools, in interleaved pairs."""

import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from loradet.benchmarks import metrics_sides as sides
from loradet.benchmarks.turns import interleave, ratio_figures
from loradet.evaluation.matchers.choice import matched_by
from loradet.evaluation.matchers.compiled import CompiledMatcher
from loradet.evaluation.matchers.reference import ReferenceMatcher

PARTS = ("metrics", "bootstrap", "calibration")


def benchmark_metrics(
    part: str, *, images: int, detections: int = 100, classes: int = 80, pairs: int = 5
) -> dict[str, Any]:
    """Time both sides in turn, after their results were found to be equal.

    Args:
        part: one of `PARTS`. `metrics`: both files to all metrics, against pycocotools' own reading, matching and
            accumulation. `bootstrap`: both files to matches that can be weighted; `calibration`: a temperature's fit
            and the whole report of what was read; both against the same code with pycocotools' matches.
        images: with seven boxes each.
        detections: an image.
        classes: of them.
        pairs: measured pairs.

    Returns:
        median seconds of both sides, and the median of the pairs' ratios (theirs over ours) with its quartiles.

    Raises:
        RuntimeError: the results are not equal to the last digit.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs: Any = sides.write_files(Path(folder), images, detections, classes)
        if part == "calibration":
            inputs = sides.records_of(inputs)
        ours, theirs, results = _sides(part)
        _check(part, results(ours(inputs)), results(theirs(inputs)))
        our_s, their_s = interleave(ours, theirs, [inputs], pairs=pairs, warmup=0)
    return {
        "images": images,
        "detections": images * detections,
        "classes": classes,
        "our_s": statistics.median(our_s),
        "pycocotools_s": statistics.median(their_s),
        **{name: value for name, value in ratio_figures(their_s, our_s).items() if name != "threads"},  # torch's
        "enough_pairs": pairs >= 5,  # a side takes seconds
        "cores": os.cpu_count(),
    }


def metrics_memory(*, images: int, detections: int = 100, classes: int = 80, pairs: int = 3) -> dict[str, Any]:
    """The most that a process holds which makes all metrics of two files, a process a measurement, sides in turn.

    Arguments are those of `benchmark_metrics`.

    Returns:
        median peaks in MiB, and the median of the pairs' ratios (ours over theirs).
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = sides.write_files(Path(folder), images, detections, classes)
        peaks = [(_peak("our_metrics", paths), _peak("their_metrics", paths)) for _ in range(pairs)]
    return {
        "images": images,
        "detections": images * detections,
        "classes": classes,
        "our_peak_mb": statistics.median(ours for ours, _ in peaks),
        "pycocotools_peak_mb": statistics.median(theirs for _, theirs in peaks),
        "peak_ratio": statistics.median(ours / theirs for ours, theirs in peaks),
        "pairs": pairs,
    }


def _sides(part: str) -> tuple[Callable, Callable, Callable]:
    """Ours, theirs, and what makes a dict of the result of either."""
    if part == "metrics":
        return _by(CompiledMatcher, sides.our_metrics), sides.their_metrics, dict
    run, results = (sides.bootstrap_matches, sides.resample) if part == "bootstrap" else (sides.calibrate, dict)
    return _by(CompiledMatcher, run), _by(ReferenceMatcher, run), results


def _by(kind: type, run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def with_matcher(inputs: Any) -> Any:
        with matched_by(kind):
            return run(inputs)

    return with_matcher


def _check(part: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    if names := sides.differing(ours, theirs):
        name = names[0]
        raise RuntimeError(
            f"{part}: {len(names)} results differ, such as {name}: {ours.get(name)} here, {theirs.get(name)} by "
            "pycocotools. No time is taken."
        )


def _peak(side: str, paths: sides.Paths) -> float:
    # Not forked: a forked process would hold, and count, what this one does.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(sides.measure_peak, side, paths).result()
