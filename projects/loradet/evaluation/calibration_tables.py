"""Calibration and intervals as text tables."""

import math
from collections.abc import Mapping

from tabulate import tabulate

from loradet.evaluation.bootstrap import Interval
from loradet.evaluation.calibration_measures import classwise_mean, detection_ece
from loradet.evaluation.calibration_report import CalibrationReport, CalibrationSide

NOTHING = "–"


def calibration_tables(report: CalibrationReport) -> str:
    """Measures before and after scaling, and ECE and NLL over score thresholds and IoU."""
    settings = report.settings
    lines = [
        f"{report.title}: {report.before.whole.count} detections, "
        f"{_number(report.before.whole.precision)} of them correct (IoU >= {settings.match_iou:g}, "
        f"score >= {settings.score_threshold:g}, {settings.bins} bins)"
    ]
    if report.temperature is not None:
        lines.append(str(report.temperature))
    before = _values(report.before)
    after = {} if report.after is None else _values(report.after)
    headers = ["", "as it is", *(["scaled"] * bool(after))]
    rows = [[name, value, *([after[name]] if after else [])] for name, value in before.items()]
    lines += ["", tabulate(rows, headers, disable_numparse=True, stralign="right")]
    names = list(report.table[0])
    # Thresholds and counts are short as they are; the measures are what follows.
    body = [
        [*(f"{row[name]:g}" for name in names[:2]), str(row["count"]), *map(_number, [row[n] for n in names[3:]])]
        for row in report.table
    ]
    heads = [name.replace("_", " ") for name in names]
    return "\n".join([*lines, "", tabulate(body, heads, disable_numparse=True, stralign="right")])


def interval_table(intervals: Mapping[str, Interval], title: str) -> str:
    """Value and interval of each metric, in three digits."""
    rows = [
        [name, _number(one.value, 3), _number(one.low, 3), _number(one.high, 3), _number(one.mean, 3)]
        for name, one in intervals.items()
    ]
    return tabulate(rows, [title, "value", "low", "high", "mean of resamples"], disable_numparse=True, stralign="right")


def _values(side: CalibrationSide) -> dict[str, str]:
    mean = classwise_mean(side.classes)
    sizes = {f"ECE of {name} boxes": one.ece for name, one in side.sizes.items()}
    values = {"ECE": side.whole.ece, "NLL": side.whole.nll, "Brier": side.whole.brier}
    values |= {"D-ECE (by box size)": detection_ece(side.sizes), **sizes}
    values |= {"classwise ECE": mean["ece"], "classwise NLL": mean["nll"], "classwise Brier": mean["brier"]}
    return {name: _number(value, 4) for name, value in values.items()}


def _number(value: float | None, digits: int = 4) -> str:
    return NOTHING if value is None or math.isnan(value) else f"{value:.{digits}f}"
