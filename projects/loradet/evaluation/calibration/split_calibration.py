"""Calibration of a config's splits, before and after a temperature that was fitted on other images."""

import inspect
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from loradet.config.splits import evaluator_class, evaluator_nodes
from loradet.evaluation.calibration.evaluator import CalibrationEvaluator
from loradet.evaluation.calibration.report import (
    CalibrationReport,
    CalibrationSettings,
    calibration_report,
    fit_on_halves,
    fit_on_records,
    summary_metrics,
)
from loradet.evaluation.calibration.temperature import Temperature
from loradet.evaluation.detections.records import read_records

PREFIX = "calibration/"
# What `calibration_metrics` gives, for the reference; patterns as fnmatch has them.
MEANINGS = {
    "calibration/ece": "expected calibration error: mean of |precision - mean score| over score bins",
    "calibration/nll": "binary cross-entropy of the score for correctness, in nats",
    "calibration/brier": "mean squared difference of score and correctness",
    "calibration/d_ece": "the ECE over cells of score bin and box size",
    "calibration/classwise_*": "mean of `ece`, `nll` or `brier` over the classes that have detections",
    "calibration/*_scaled": "each of these after the temperature",
    "calibration/temperature": "the temperature to use on other images",
}


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """A split's COCO annotations and the detections that were found on it."""

    split: str
    annotations: Path
    predictions: Path


def calibration_node(cfg: DictConfig) -> DictConfig | None:
    """The `CalibrationEvaluator` of a config; None where it has none."""
    for node in evaluator_nodes(cfg.dataloader.evaluator):
        called = evaluator_class(node)
        if inspect.isclass(called) and issubclass(called, CalibrationEvaluator):
            return node
    return None


def calibrate_split(
    node: DictConfig, files: SplitFiles, fit: SplitFiles | None = None
) -> tuple[CalibrationReport, str]:
    """Measure a split as a config's `CalibrationEvaluator` does, and what a temperature makes of it.

    The temperature is the one that the config gives; else it is fitted on `fit`; else, without another split, each
    half of the images gets the one that is fitted on the other half.

    Args:
        node: from `calibration_node`.
        files: of the split.
        fit: of another split.

    Returns:
        The report, and what its temperature was fitted on, in words.

    Raises:
        ValueError: files that are broken or do not belong together; scores that are not in 0..1.
    """
    names = [one.name for one in fields(CalibrationSettings)]
    settings = CalibrationSettings(**{name: node[name] for name in names if name in node})
    records = read_records(files.annotations, files.predictions)
    if node.get("temperature") is not None:
        temperature, source = Temperature(float(node.temperature)), "the config"
    elif fit is not None:
        temperature, source = fit_on_records(read_records(fit.annotations, fit.predictions), settings), fit.split
    else:
        temperature, source = fit_on_halves(records, settings), f"halves of {files.split}"
    return calibration_report(records, settings, temperature=temperature, title=files.split), source


def calibration_metrics(report: CalibrationReport) -> dict[str, Any]:
    """For metrics files: `calibration/ece`, `nll`, `brier`, `d_ece`, `classwise_ece` …, each also with `_scaled`.

    `calibration/temperature` is the one to use on other images. Values are fractions and nats.
    """
    found = {name: value for name, value in summary_metrics(report).items() if "-" not in name}
    metrics = {PREFIX + name.lower().replace("_after", "_scaled"): value for name, value in found.items()}
    return metrics if report.temperature is None else metrics | {f"{PREFIX}temperature": report.temperature.value}
