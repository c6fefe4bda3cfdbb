"""Plots of analyses. Figures are drawn by Matplotlib's Agg, without its global state."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from loradet.evaluation.analysis.confusion import BACKGROUND, ConfusionMatrix
from loradet.evaluation.analysis.error_breakdown import ErrorBreakdown
from loradet.evaluation.analysis.precision_recall import MEAN, RECALLS, PrecisionRecall
from loradet.files import atomic_open

MAX_NAMED = 12  # curves with a name and a colour of their own
MAX_NUMBERED = 20  # classes of a confusion matrix whose cells hold their counts


def save_figure(path: str | os.PathLike, figure: Figure) -> Path:
    """Write a figure as PNG, whole or not at all, with the same bytes for the same figure."""
    path = Path(path)
    with atomic_open(path, "wb") as file:
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return path


def plot_precision_recall(curves: Sequence[PrecisionRecall], title: str) -> Figure:
    """Precision over recall, a plot for each IoU threshold; the mean is drawn in black."""
    thresholds = sorted({curve.iou_threshold for curve in curves})
    figure = Figure(figsize=(5.6 * len(thresholds), 5.6), layout="constrained")
    figure.suptitle(f"Precision and recall\n{title}", fontsize=11)
    for axes, threshold in zip(figure.subplots(1, len(thresholds), squeeze=False)[0], thresholds):
        here = [curve for curve in curves if curve.iou_threshold == threshold]
        known = [curve for curve in here if curve.name != MEAN and not np.isnan(curve.average_precision)]
        for number, curve in enumerate(known):
            named = len(known) <= MAX_NAMED
            label = f"{curve.name} {curve.average_precision:.3f}" if named else None
            color = f"C{number % 10}" if named else "0.75"
            style = "--" if named and number >= 10 else "-"
            axes.plot(RECALLS, curve.precision, color=color, linestyle=style, linewidth=1.2, label=label)
        for curve in here:
            if curve.name == MEAN and not np.isnan(curve.average_precision):
                label = f"mean of {len(known)} classes {curve.average_precision:.3f}"
                axes.plot(RECALLS, curve.precision, color="black", linewidth=2.4, label=label)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=f"IoU {threshold:g}")
        axes.grid(alpha=0.3)
        if known:
            axes.legend(title="class, AP", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=9)
        else:
            axes.text(0.5, 0.5, "no boxes to find", ha="center")
    return figure


def plot_confusion(matrix: ConfusionMatrix, title: str) -> Figure:
    """Counts as numbers, shares of each row as colours."""
    labels = [*matrix.class_names, BACKGROUND]
    size = len(labels)
    side = float(np.clip(2.6 + 0.62 * size, 5.5, 18))
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    figure.suptitle(
        f"Confusion matrix, score >= {matrix.score_threshold:g}, IoU >= {matrix.iou_threshold:g}\n{title}", fontsize=11
    )
    axes = figure.subplots()
    totals = matrix.counts.sum(axis=1, keepdims=True)
    shares = matrix.counts / np.maximum(totals, 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the row", shrink=0.8)
    font = 9 if size <= MAX_NUMBERED else float(np.clip(400 / size, 3, 8))
    axes.set_xticks(range(size), labels, rotation=90 if size > 8 else 40, fontsize=font, ha="center")
    if size <= 8:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), labels, fontsize=font)
    axes.set(xlabel="detected (background: missed)", ylabel="annotated (background: found where there is nothing)")
    if size - 1 <= MAX_NUMBERED:
        for row in range(size):
            for column in range(size):
                if count := int(matrix.counts[row, column]):
                    color = "white" if shares[row, column] > 0.55 else "black"
                    axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    return figure


def plot_errors(errors: ErrorBreakdown, title: str) -> Figure:
    """Bars of the counts, and of what mending each kind would add to AP."""
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    name = f"AP{round(100 * errors.foreground_iou)}"
    known = not np.isnan(errors.average_precision)
    average = f"{errors.average_precision:.3f}" if known else "not defined"
    figure.suptitle(
        f"Errors: {name} {average}, {errors.true_positives} of {errors.num_truth} boxes found\n{title}", fontsize=11
    )
    left, right = figure.subplots(1, 2, sharey=True)
    kinds = list(errors.counts)
    colors = [f"C{number}" for number in range(len(kinds))]
    counts = left.barh(kinds, errors.counts.values(), color=colors)
    left.bar_label(counts, padding=3, fontsize=9)
    left.set(xlabel="number of errors", title="how many")
    gains = [0.0 if np.isnan(gain) else gain for gain in errors.gains.values()]
    bars = right.barh(kinds, gains, color=colors)
    texts = ["not defined" if np.isnan(gain) else f"{gain:+.3f}" for gain in errors.gains.values()]
    right.bar_label(bars, texts, padding=3, fontsize=9)
    right.set(xlabel=f"{name} gained if mended", title="what they cost")
    left.invert_yaxis()
    for axes in (left, right):
        axes.margins(x=0.18)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    return figure
