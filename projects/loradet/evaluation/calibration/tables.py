"""Calibration and intervals as text tables."""

from collections.abc import Mapping

from tabulate import tabulate

from loradet.evaluation.bootstrap import Interval
from loradet.evaluation.calibration.measures import classwise_mean, detection_ece
from loradet.evaluation.calibration.report import CalibrationReport, CalibrationSide
from loradet.evaluation.cells import number_cell


def calibration_tables(report: CalibrationReport) -> str:
    """Measures before and after scaling, and ECE and NLL over score thresholds and IoU."""
    settings = report.settings
    lines = [
        f"{report.title}: {report.before.whole.count} detections, "
        f"{number_cell(report.before.whole.precision, 4)} of them correct (IoU >= {settings.match_iou:g}, "
        f"score >= {settings.score_threshold:g}, {settings.bins} bins)"
    ]
    if report.temperature is not None:
        lines.append(str(report.temperature))
    before = _values(report.before)
    after = {} if report.after is None else _values(report.after)
    headers = ["", "as it is", *(["scaled"] * bool(after))]
    rows = [[name, value, *([after[name]] if after else [])] for name, value in before.items()]
    lines += ["", tabulate(rows, headers, disable_numparse=True, stralign="right")]
    return "\n".join([*lines, "", _threshold_table(report)])


def _threshold_table(report: CalibrationReport) -> str:
    heads = ["score threshold", "match iou", "count", "ece", "nll"]
    heads += ["ece after", "nll after"] if report.after is not None else []
    rows = []
    for row in report.table:
        # Thresholds are short as they are.
        cells = [f"{row.score_threshold:g}", f"{row.match_iou:g}", str(row.before.count)]
        for side in (row.before, row.after):
            cells += [] if side is None else [number_cell(side.ece, 4), number_cell(side.nll, 4)]
        rows.append(cells)
    return tabulate(rows, heads, disable_numparse=True, stralign="right")


def interval_table(intervals: Mapping[str, Interval], title: str) -> str:
    """Value and interval of each metric, in three digits."""
    rows = [[name, *map(number_cell, (one.value, one.low, one.high, one.mean))] for name, one in intervals.items()]
    return tabulate(rows, [title, "value", "low", "high", "mean of resamples"], disable_numparse=True, stralign="right")


def _values(side: CalibrationSide) -> dict[str, str]:
    mean = classwise_mean(side.classes)
    sizes = {f"ECE of {name} boxes": one.ece for name, one in side.sizes.items()}
    values = {"ECE": side.whole.ece, "NLL": side.whole.nll, "Brier": side.whole.brier}
    values |= {"D-ECE (by box size)": detection_ece(side.sizes), **sizes}
    values |= {"classwise ECE": mean["ece"], "classwise NLL": mean["nll"], "classwise Brier": mean["brier"]}
    return {name: number_cell(value, 4) for name, value in values.items()}
