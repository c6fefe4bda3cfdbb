"""The calibration report of a detector on a data set: one JSON file and one diagram."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loradet.errors import UserError
from loradet.evaluation.calibration.held_out_temperature import HeldOutTemperature, fit_held_out
from loradet.evaluation.calibration.measures import (
    BINS,
    SCORE_EPSILON,
    CalibrationMeasures,
    JudgedTerms,
    ReliabilityBins,
    ScoreTerms,
    classwise_mean,
    detection_ece,
    or_none,
)
from loradet.evaluation.calibration.temperature import Temperature, fit_temperature
from loradet.evaluation.calibration.threshold_table import ThresholdRow, threshold_table
from loradet.evaluation.correctness import Correctness, JudgedDetections, match_all
from loradet.evaluation.detections.records import DetectionRecords
from loradet.files import write_json

AnyTemperature = Temperature | HeldOutTemperature

TABLE_SCORES = (0.0, 0.05, 0.1, 0.3, 0.5)
TABLE_IOUS = (0.5, 0.6, 0.75, 0.9)
JSON_FILE, DIAGRAM_FILE = "calibration.json", "reliability_diagram.png"


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """What counts as correct, and which detections are looked at.

    Attributes:
        match_iou: IoU from which a detection finds a box, in (0, 1].
        bins: of equal width.
        score_threshold: detections under it are left out, in 0..1. A temperature does not change which.

    Raises:
        ValueError: a value out of its range.
    """

    match_iou: float = 0.5
    bins: int = BINS
    score_threshold: float = 0.0

    def __post_init__(self):
        if not 0 < self.match_iou <= 1:
            raise UserError(f"match_iou={self.match_iou}: expected an IoU above 0, up to 1.")
        if not 0 <= self.score_threshold <= 1:
            raise UserError(f"score_threshold={self.score_threshold}: expected a score in 0..1.")
        if self.bins < 1:
            raise UserError(f"bins={self.bins}: expected 1 or more.")


@dataclass(frozen=True, kw_only=True)
class CalibrationSide:
    """All measures of one set of scores: as the detector gives them, or scaled."""

    whole: CalibrationMeasures
    classes: list[CalibrationMeasures]
    sizes: dict[str, CalibrationMeasures]
    reliability: ReliabilityBins

    @classmethod
    def of(cls, terms: JudgedTerms, classes: np.ndarray, areas: np.ndarray, num_classes: int) -> "CalibrationSide":
        """Measure detections of these classes (N,) and areas (N,)."""
        return cls(
            whole=terms.measures(),
            classes=terms.measures_of_classes(classes, num_classes),
            sizes=terms.measures_of_sizes(areas),
            reliability=terms.reliability(),
        )

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.whole.to_dict(),
            "d_ece": or_none(detection_ece(self.sizes)),
            "classwise_mean": {name: or_none(value) for name, value in classwise_mean(self.classes).items()},
            "sizes": {name: one.to_dict() for name, one in self.sizes.items()},
            "classes": [{"name": name, **one.to_dict()} for name, one in zip(class_names, self.classes)],
            "reliability": self.reliability.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """Calibration of a detector on a data set.

    Attributes:
        title: what the detections are of.
        before: of the scores as they are.
        after: of the scores scaled by `temperature`; None without one.
        table: a row for each score threshold and IoU.
    """

    title: str
    class_names: tuple[str, ...]
    num_images: int
    synthetic: bool
    settings: CalibrationSettings
    before: CalibrationSide
    temperature: AnyTemperature | None
    after: CalibrationSide | None
    table: list[ThresholdRow]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "title": self.title,
            **({"data": "synthetic"} if self.synthetic else {}),
            "num_images": self.num_images,
            **vars(self.settings),
            "score_epsilon": SCORE_EPSILON,
            "before": self.before.to_dict(self.class_names),
            "temperature": self.temperature and self.temperature.to_dict(),
            "after": self.after and self.after.to_dict(self.class_names),
            "table": [row.to_dict() for row in self.table],
        }

    def write(self, output: str | os.PathLike) -> list[Path]:
        """Write `calibration.json` and `reliability_diagram.png` into a folder, which is made; returns them."""
        # Every training imports this module, and matplotlib takes a while.
        from loradet.evaluation.calibration.reliability_diagram import plot_reliability, save_figure

        output = Path(output)
        output.mkdir(parents=True, exist_ok=True)
        figure = plot_reliability(self._diagrams(), self.title)
        write_json(output / JSON_FILE, self.to_dict())
        return [output / JSON_FILE, save_figure(output / DIAGRAM_FILE, figure)]

    def _diagrams(self) -> dict[str, ReliabilityBins]:
        if self.after is None:
            return {"scores as they are": self.before.reliability}
        return {"scores as they are": self.before.reliability, self.temperature.label: self.after.reliability}


def calibration_report(
    records: DetectionRecords,
    settings: CalibrationSettings,
    *,
    temperature: AnyTemperature | None = None,
    title: str = "detections",
    table_scores: Sequence[float] = TABLE_SCORES,
    table_ious: Sequence[float] = TABLE_IOUS,
) -> CalibrationReport:
    """Measure the calibration of detections.

    Args:
        temperature: measure the scores that it gives too.
        table_scores, table_ious: rows of the table besides those of the settings.

    Raises:
        ValueError: scores that are not in 0..1.
    """
    ious = sorted({settings.match_iou, *table_ious})
    matches = _match(records, ious)
    at_match_iou = matches.iou_thresholds.index(settings.match_iou)
    terms = [ScoreTerms.of(matches.scores, settings.bins)]
    if temperature is not None:
        terms.append(ScoreTerms.of(temperature.scale(matches.every(settings.match_iou)).scores, settings.bins))
    kept = ~matches.ignored[at_match_iou] & (matches.scores >= settings.score_threshold)
    of_kept = matches.classes[kept], matches.areas[kept], len(records.class_names)
    sides = [CalibrationSide.of(one.judged(matches.correct[at_match_iou]).where(kept), *of_kept) for one in terms]
    thresholds = sorted({settings.score_threshold, *table_scores})
    kind = "synthetic images" if records.synthetic else "images"
    return CalibrationReport(
        title=f"{title}, {len(records.images)} {kind}",
        class_names=records.class_names,
        num_images=len(records.images),
        synthetic=records.synthetic,
        settings=settings,
        before=sides[0],
        temperature=temperature,
        after=sides[1] if temperature is not None else None,
        table=threshold_table(matches, terms, thresholds, ious),
    )


def fit_on_records(records: DetectionRecords, settings: CalibrationSettings) -> Temperature:
    """Fit a temperature to the detections that the settings choose. Raises ValueError as `calibration_report`."""
    detections = _judged(records, settings)
    return fit_temperature(detections.scores, detections.correct)


def fit_on_halves(records: DetectionRecords, settings: CalibrationSettings) -> HeldOutTemperature:
    """Fit temperatures to a split that is measured itself. Raises ValueError as `calibration_report`."""
    detections = _judged(records, settings)
    return fit_held_out(detections, [image.image_id for image in records.images])


def _judged(records: DetectionRecords, settings: CalibrationSettings) -> JudgedDetections:
    return _match(records, [settings.match_iou]).judged(settings.match_iou, settings.score_threshold)


def _match(records: DetectionRecords, ious: Sequence[float]) -> Correctness:
    columns = records.columns
    if len(wrong := np.flatnonzero(~((columns.scores >= 0) & (columns.scores <= 1)))):
        image, score = records.images[columns.image[wrong[0]]], columns.scores[wrong[0]]
        raise UserError(f"Image {image.image_id} has a score of {score}: calibration needs scores in 0..1.")
    return match_all(records, ious)


def summary_metrics(report: CalibrationReport) -> dict[str, float]:
    """Fractions and nats under flat names, as an evaluator returns them; NaN where there are no detections."""
    found = {}
    for suffix, side in (("", report.before), ("_after", report.after)):
        if side is not None:
            values = {"ECE": side.whole.ece, "NLL": side.whole.nll, "Brier": side.whole.brier}
            values["D_ECE"] = detection_ece(side.sizes)
            values |= {f"classwise_{name.upper()}": value for name, value in classwise_mean(side.classes).items()}
            found |= {f"{name}{suffix}": value for name, value in values.items()}
    # Detectron2 takes a name with a "-" for that of a class.
    return found | {f"ECE-{name}": one.ece for name, one in zip(report.class_names, report.before.classes)}
