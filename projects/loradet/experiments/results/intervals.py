"""Bootstrap intervals of AP over images, from the detections of a study's runs."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from loradet.errors import UserError
from loradet.evaluation.bootstrap import Interval, bootstrap_metrics
from loradet.evaluation.coco_accumulate import AccumulatedMatches
from loradet.evaluation.coco_metrics import PREFIX, match_detections
from loradet.experiments.results.folders import Result
from loradet.experiments.results.split_files import predictions_file, provenance

logger = logging.getLogger(__name__)

METRICS = ("mAP", "mAP_50", "mAP_75")
# Folder of the run and split -> name without its prefix, as `mAP_50` -> interval; None where files are gone.
Intervals = Mapping[tuple[Path, str], Mapping[str, Interval] | None]


def bootstrap_runs(
    results: Sequence[Result], resamples: int, *, seed: int = 0, progress: Callable[[Result], None] = lambda _: None
) -> Intervals:
    """Percentile intervals of AP, AP50 and AP75 over the images of each split, for each finished run.

    Every run draws the same images.

    Args:
        resamples: of each run and split.
        progress: called with each run that is done.

    Raises:
        ValueError: a run's files no longer give the AP that it has saved; it is named. Or fewer than 1 resample.
    """
    found: dict[tuple[Path, str], Mapping[str, Interval] | None] = {}
    for result in results:
        if result.state == "finished" and result.entry.kind == "training":
            for split in result.metrics:
                found[result.folder, split] = _intervals(result, split, resamples, seed)
            progress(result)
    return found


def _intervals(result: Result, split: str, resamples: int, seed: int) -> Mapping[str, Interval] | None:
    predictions, annotations = predictions_file(result, split), provenance(result, split).get("annotations")
    if predictions is None or annotations is None or not Path(annotations).is_file():
        logger.warning(
            "%s: no intervals of %s: its detections or their annotation file are gone, or the metrics file is of an "
            "earlier version. Evaluate it again: --eval-only --split %s.",
            *(result.folder, split, split),
        )
        return None
    evaluation = match_detections(annotations, predictions)
    matches = AccumulatedMatches.from_evaluation(evaluation).of_areas(["all"])
    found = bootstrap_metrics(matches, evaluation.class_names, resamples=resamples, seed=seed)
    saved, again = result.metrics[split].get(f"{PREFIX}mAP", math.nan), found["mAP"].value
    if not (math.isnan(saved) or math.isclose(saved, again, abs_tol=1e-6)):
        raise UserError(
            f"{result.entry.id}: {predictions} and {annotations} give an AP of {again:.6f}, but {split}_metrics.json "
            f"has {saved:.6f}: one of them has changed since. Evaluate that run again."
        )
    return {name: found[name] for name in METRICS}
