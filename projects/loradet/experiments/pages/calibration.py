"""The report's tables and diagrams of calibration."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loradet.evaluation.cells import NOTHING, number_cell
from loradet.experiments.pages.document import Section, Table
from loradet.experiments.pages.figures import COLORS, INK, Plot, finish, new_figure
from loradet.experiments.pages.shown import say_so, shown
from loradet.experiments.results.seed_statistics import summary_cell
from loradet.experiments.results.split_files import read_calibration
from loradet.experiments.results.table import Row

CALIBRATION = "calibration/"
_MEASURES = {"ece": "ECE", "nll": "NLL", "brier": "Brier", "d_ece": "D-ECE", "classwise_ece": "classwise ECE"}
_DIGITS = 4
_MEANING = (
    "Whether scores say how often detections are correct (docs/calibration.md): ECE, Brier and D-ECE are fractions, "
    "NLL is in nats. «Scaled»: after temperature scaling, with a temperature that was fitted on other images. Compare "
    "detectors at one score threshold: many low scores that are rightly low make a small ECE."
)
# (row, contents of calibration.json of each finished run that has one)
_Found = Sequence[tuple[Row, Sequence[Mapping[str, Any]]]]


def calibration_section(here: Sequence[Row], split: str) -> Section:
    """Measures before and after scaling, ECE and NLL over thresholds, and reliability diagrams; empty without any."""
    rows = [
        row
        for row in here
        if any(name.startswith(CALIBRATION) for source in (row.metrics, row.reported) for name in source)
    ]
    if not rows:
        return Section("")
    found = [(row, [c for run in row.measured if (c := read_calibration(run, split))]) for row in rows]
    found = [(row, contents) for row, contents in found if contents]
    tables = [_measure_table(rows, {row.entry.id: contents for row, contents in found})]
    tables += [_threshold_table(found)] if found else []
    kept = {row.entry.id for row in shown(here)}
    drawn = [(row, contents) for row, contents in found if row.entry.id in kept]
    plots = [say_so(_reliability_plot(drawn, split), here, split)] if drawn else []
    return Section(f"Calibration on {split}", [_MEANING], tables, plots)


def _measure_table(rows: Sequence[Row], contents: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    names = [
        (f"{CALIBRATION}{key}{suffix}", f"{label}{words}")
        for key, label in _MEASURES.items()
        for suffix, words in (("", ""), ("_scaled", " scaled"))
    ]
    names.append((f"{CALIBRATION}temperature", "temperature"))
    headers, columns = ["id", "experiment", "data"], []
    for name, label in names:
        if any(name in row.metrics for row in rows):
            headers.append(label)
            columns.append([summary_cell(row.metrics.get(name), _DIGITS) for row in rows])
        if any(name in row.reported for row in rows):
            headers.append(f"{label} reported")
            columns.append([summary_cell(row.reported.get(name), _DIGITS) for row in rows])
    headers.append("fitted on")
    sources = [{c["fitted_on"]: None for c in contents.get(row.entry.id, ()) if c["fitted_on"]} for row in rows]
    columns.append([", ".join(one) or NOTHING for one in sources])
    body = [[row.entry.id, row.entry.title, row.data or NOTHING, *cells] for row, *cells in zip(rows, *columns)]
    return Table(headers, body)


def _threshold_table(found: _Found) -> Table:
    """ECE and NLL of the scores as they are: a row for each score threshold, columns for each IoU."""
    ious = sorted({line["match_iou"] for _, contents in found for one in contents for line in one["table"]})
    headers = ["id", "experiment", "score from", "detections"]
    headers += [f"{name}, IoU {iou:g}" for name in ("ECE", "NLL") for iou in ious]
    body = []
    for row, contents in found:
        for score in sorted({line["score_threshold"] for one in contents for line in one["table"]}):
            lines = [line for one in contents for line in one["table"] if line["score_threshold"] == score]
            cells = [
                _mean([line[name] for line in lines if line["match_iou"] == iou])
                for name in ("ece", "nll")
                for iou in ious
            ]
            counts = [line["count"] for line in lines if line["match_iou"] == ious[0]]
            count = number_cell(sum(counts) / len(counts) if counts else None, 0)
            body.append([row.entry.id, row.entry.title, f"{score:g}", count, *cells])
    return Table(headers, body)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return number_cell(sum(known) / len(known) if known else None, _DIGITS)


def _reliability_plot(found: _Found, split: str) -> Plot:
    """A diagram for each experiment, the detections of its seeds together."""
    columns = min(len(found), 4)
    lines = math.ceil(len(found) / columns)
    figure, grid = new_figure(max(2.6 * columns, 4), 0.7 + 2.6 * lines, lines, columns)
    for spare in grid.flat[len(found) :]:
        spare.set_visible(False)
    looks = {"before": ("scores as they are", COLORS[0], "o"), "after": ("scaled", COLORS[1], "s")}
    handles = {}
    for axes, (row, contents) in zip(grid.flat, found):
        axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=0.8)
        for side, (name, color, marker) in looks.items():
            sides = [one[side]["reliability"] for one in contents if one[side]]
            if sides:
                (handles[name],) = axes.plot(*_pooled(sides), marker=marker, markersize=3, linewidth=1.2, color=color)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set_title(row.entry.id, fontsize=8.5, loc="left", pad=3)
        axes.tick_params(labelsize=7)
    figure.supxlabel("mean score of a bin", fontsize=9)
    figure.supylabel("share of correct detections", fontsize=9)
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    images = ", synthetic images" if any(row.data for row, _ in found) else ""
    caption = f"Reliability diagrams on {split}{images}: a calibrated detector's points lie on the dashed line."
    return finish(figure, f"reliability_{split}", caption)


def _pooled(bins: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean score and precision of the bins that hold detections of any seed."""
    counts = np.array([one["count"] for one in bins], float)
    total = counts.sum(axis=0)
    full = total > 0
    weights = counts[:, full] / total[full]
    means = [[[value or 0.0 for value in one[name]] for one in bins] for name in ("mean_score", "precision")]
    score, precision = ((np.array(values)[:, full] * weights).sum(axis=0) for values in means)
    return score, precision
