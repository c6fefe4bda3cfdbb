"""The reliability diagram: precision over score, with the number of detections below."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from loradet.evaluation.calibration.measures import ReliabilityBins
from loradet.files import atomic_open

_PRECISION, _GAP = "#56B4E9", "#D55E00"  # Okabe and Ito's colours, told apart by colour-blind people


def plot_reliability(diagrams: Mapping[str, ReliabilityBins], title: str) -> Figure:
    """One diagram beside the other, each under its name.

    Bars are the precision of each bin, dots its mean score on the diagonal, where a calibrated detector's bars end;
    what lies between is the bin's share of the ECE before weighting. Counts are on a logarithmic axis.
    """
    figure = Figure(figsize=(5.2 * len(diagrams), 6.2), layout="constrained")
    figure.suptitle(f"Reliability diagram\n{title}", fontsize=11, parse_math=False, wrap=True)
    grid = figure.subplots(2, len(diagrams), squeeze=False, sharex=True, sharey="row", height_ratios=[3, 1])
    highest = max(int(bins.counts.max()) for bins in diagrams.values())
    for (name, bins), upper, lower in zip(diagrams.items(), *grid):
        _draw_precision(upper, bins, name)
        _draw_counts(lower, bins, highest)
    return figure


def save_figure(path: str | os.PathLike, figure: Figure) -> Path:
    """Write a figure as PNG, whole or not at all, with the same bytes for the same figure."""
    path = Path(path)
    with atomic_open(path, "wb") as file:
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return path


def _draw_precision(axes: Axes, bins: ReliabilityBins, name: str) -> None:
    count = len(bins.counts)
    full = np.flatnonzero(bins.counts)
    centres, width = (full + 0.5) / count, 1 / count
    precision, mean = bins.precisions[full], bins.mean_scores[full]
    axes.bar(centres, precision, width, color=_PRECISION, edgecolor="white", label="precision")
    axes.vlines(mean, precision, mean, color=_GAP, linewidth=2, label="gap to the mean score")
    axes.plot(mean, mean, "o", color=_GAP, markersize=4)
    axes.plot([0, 1], [0, 1], "--", color="0.4", linewidth=1, label="calibrated")
    total = int(bins.counts.sum())
    error = f"ECE {bins.error:.4f}, {total} detections" if total else "no detections"
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of correct detections")
    axes.set_title(f"{name}\n{error}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    if total:
        axes.legend(loc="upper left", fontsize=8)


def _draw_counts(axes: Axes, bins: ReliabilityBins, highest: int) -> None:
    count = len(bins.counts)
    axes.bar((np.arange(count) + 0.5) / count, bins.counts, 1 / count, color="0.6", edgecolor="white")
    if highest:
        axes.set_yscale("log")
        axes.set_ylim(0.5, 2 * highest)
    axes.set(xlabel="score", ylabel="detections")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
