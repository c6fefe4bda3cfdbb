"""The plots of a report; each is None where no run has its numbers."""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from loradet.evaluation.cells import NOTHING
from loradet.experiments.pages.figures import (
    COLORS,
    GRID,
    INK,
    Plot,
    are_far_apart,
    finish,
    label_points,
    new_figure,
    set_log_y,
    style,
)
from loradet.experiments.results.curves import Curve
from loradet.experiments.results.seed_statistics import Summary
from loradet.experiments.results.table import Row
from loradet.experiments.study.definition import MAIN_METRIC, Entry

CLASS_PREFIX = f"{MAIN_METRIC}/"
_TOGETHER = 6  # experiments that one pair of axes holds
_SPREAD = "Bars: ± one sample standard deviation over the seeds, where there are several."
_INTERVALS = "Bars, where there are any: 95 % intervals, cut at 0 and 1."
_HOLLOW = " Hollow markers, a little to the right: reported."


def ap_against_parameters(
    rows: Sequence[Row], split: str, *, interval: Callable[[Row], tuple[float, float] | None] | None = None
) -> Plot | None:
    """AP against trainable parameters on a log axis, one point for each entry, reported ones hollow.

    A reported point for which no count is reported stands at that of our run, or at the one that the entry's
    `trainable` check expects.

    Args:
        interval: (low, high) of a row's AP, for the bars in place of the seeds' standard deviation; the plot has a form
            for narrow screens then.
    """
    cost = _Cost("parameters", "trainable parameters (M)", _millions, _reported_millions)
    if interval is None:
        return _ap_against(rows, split, cost)
    narrow = _ap_against(rows, split, cost, interval=interval, is_narrow=True)
    plot = _ap_against(rows, split, cost, interval=interval)
    return plot and replace(plot, narrow=narrow)


def ap_against_speed(rows: Sequence[Row], split: str) -> Plot | None:
    """AP against images a second of inference, of the runs that have measured it."""
    cost = _Cost("speed", "speed of inference (images/s)", lambda row: _mean(row.cost("inference_images_per_s")))
    return _ap_against(rows, split, cost)


def ap_against_memory(rows: Sequence[Row], split: str) -> Plot | None:
    """AP against the peak memory of training."""
    cost = _Cost("memory", "peak memory of training (MiB)", lambda row: _mean(row.cost("peak_memory_mb")))
    return _ap_against(rows, split, cost)


@dataclass(frozen=True)
class _Cost:
    """What AP is drawn against: its file's name, its axis, and the value of a row, ours and reported."""

    name: str
    label: str
    ours: Callable[[Row], float | None]
    reported: Callable[[Row], float | None] = lambda _: None


def _ap_against(
    rows: Sequence[Row],
    split: str,
    cost: _Cost,
    *,
    interval: Callable[[Row], tuple[float, float] | None] | None = None,
    is_narrow: bool = False,
) -> Plot | None:
    size = (4.1, 4.4) if is_narrow else (8.0, 5.0)
    points = []
    for row in _of(rows, split):
        for summary, is_hollow in _summaries(row):
            if x := (cost.reported if is_hollow else cost.ours)(row):
                points.append((row, x, summary, is_hollow))
    ours = {row.entry.id: x for row, x, _, is_hollow in points if not is_hollow}
    if not ours:
        return None
    figure, grid = new_figure(*size)
    axes = grid[0, 0]
    look = _styles([_method(row.entry) for row, *_ in points])
    values = [x for _, x, *_ in points]
    beside = (max(values) / min(values) * 2) ** 0.012
    labels, bars = {}, []
    for row, x, summary, is_hollow in points:
        place = x * beside if is_hollow else x
        ends = interval(row) if interval and not is_hollow else _deviation(summary)
        _point(axes, place, summary, look[_method(row.entry)], is_hollow, ends)
        bars.append((place, *(ends or (summary.mean, summary.mean))))
        if not is_hollow or row.entry.id not in ours:
            labels[row.entry.id] = (place, summary.mean)
    _log_axis(axes, values)
    low, high = _not_below_zero(axes.get_ylim())
    axes.set_ylim(low, min(high, 1.03))
    axes.set_xlabel(cost.label)
    axes.set_ylabel(f"AP ({_images(rows, split)})")
    hollow = any(is_hollow for *_, is_hollow in points)
    _legend(figure, look, hollow, width=size[0])
    label_points(axes, list(labels.values()), list(labels), bars)
    devices = {row.recorded("device") for row, *_, is_hollow in points if not is_hollow}
    caption = f"AP on {_images(rows, split)} against {cost.label.partition(' (')[0]}. "
    caption += (_INTERVALS if interval else _SPREAD) + _HOLLOW * hollow
    if cost.name != "parameters" and len(devices) > 1:
        caption += " The runs were on different devices, so their places from left to right are not comparable."
    return finish(figure, f"ap_{cost.name}_{split}", caption, is_narrow=is_narrow)


def ap_by_rank(rows: Sequence[Row], split: str) -> Plot | None:
    """AP over the rank of LoRA, one line for each choice of targets (and of whatever else differs).

    None for a single rank, of which there is nothing to see.
    """
    ranked = [row for row in _of(rows, split) if row.entry.rank is not None and _summaries(row)]
    if not any(MAIN_METRIC in row.metrics for row in ranked):
        return None
    ranks = sorted({row.entry.rank for row in ranked})
    if len(ranks) < 2:
        return None
    figure, grid = new_figure(8, 4.5)
    axes = grid[0, 0]
    groups = _groups([row.entry for row in ranked])
    look = _styles(groups)
    hollow = False
    for index, group in enumerate(look):
        members = sorted((row for row, name in zip(ranked, groups) if name == group), key=lambda row: row.entry.rank)
        shift = 0.5 * ((index + 0.5) / len(look) - 0.5)  # side by side, so that no marker hides another
        line = [(ranks.index(r.entry.rank) + shift, r.metrics[MAIN_METRIC].mean) for r in members if _has(r)]
        if line:
            axes.plot(*zip(*line), color=look[group]["color"], linewidth=1.2, zorder=2)
        for row in members:
            for summary, is_hollow in _summaries(row):
                place = ranks.index(row.entry.rank) + shift + 0.025 * is_hollow
                _point(axes, place, summary, look[group], is_hollow, _deviation(summary))
                hollow = hollow or is_hollow
    axes.set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
    axes.set_xlim(-0.5, len(ranks) - 0.5)
    axes.set_ylim(_not_below_zero(axes.get_ylim()))
    axes.set_xlabel("rank")
    axes.set_ylabel(f"AP ({_images(rows, split)})")
    axes.grid(visible=False, axis="x")
    _legend(figure, look, hollow)
    caption = f"AP on {_images(rows, split)} by rank and targets of LoRA. {_SPREAD}" + _HOLLOW * hollow
    return finish(figure, f"ap_rank_{split}", caption)


def class_ap(rows: Sequence[Row], split: str) -> Plot | None:
    """AP of each class: dots for a few entries, a shaded table for many."""
    measured = [row for row in _of(rows, split) if any(name.startswith(CLASS_PREFIX) for name in row.metrics)]
    names = list(dict.fromkeys(name for row in measured for name in row.metrics if name.startswith(CLASS_PREFIX)))
    if not measured:
        return None
    draw = _class_dots if len(measured) <= _TOGETHER and len(names) <= 20 else _class_cells
    return draw(measured, names, split)


def _class_dots(rows: Sequence[Row], names: Sequence[str], split: str) -> Plot:
    figure, grid = new_figure(8, 1.4 + len(names) * (0.22 + 0.1 * len(rows)))
    axes = grid[0, 0]
    look = _styles([row.entry.id for row in rows])
    for index, row in enumerate(rows):
        for place, name in enumerate(names):
            if summary := row.metrics.get(name):
                y = place + 0.7 * ((index + 0.5) / len(rows) - 0.5)
                axes.errorbar(summary.mean, y, xerr=summary.std, capsize=2, markersize=5, **look[row.entry.id])
    axes.set_xlim(_not_below_zero(axes.get_xlim()))
    axes.set_yticks(range(len(names)), [name.removeprefix(CLASS_PREFIX) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.tick_params(axis="y", which="both", length=0)
    axes.grid(visible=False, axis="y")
    axes.grid(which="minor", axis="y", color=GRID)
    axes.set_xlabel(f"AP ({_images(rows, split)})")
    _legend(figure, {f"{row.entry.id}  {_short(row.entry)}": look[row.entry.id] for row in rows}, False)
    return finish(figure, f"ap_classes_{split}", f"AP of each class on {_images(rows, split)}. {_SPREAD}")


def _class_cells(rows: Sequence[Row], names: Sequence[str], split: str) -> Plot:
    values = np.array([[row.metrics[n].mean if n in row.metrics else math.nan for n in names] for row in rows])
    classes = [name.removeprefix(CLASS_PREFIX) for name in names]
    ids = [row.entry.id for row in rows]
    turned = len(names) > 12
    if turned:
        values, classes, ids = values.T, ids, classes
    count_y, count_x = values.shape
    figure, grid = new_figure(1.9 + max(0.56 * count_x, 3.5), 1.2 + 0.24 * count_y)
    axes = grid[0, 0]
    axes.grid(visible=False)
    image = axes.imshow(values, cmap="cividis", aspect="auto", vmin=0, vmax=max(np.nanmax(values), 1e-3))
    axes.set_xticks(range(count_x), classes, rotation=45 if count_x > 8 or turned else 0, ha="center")
    axes.set_yticks(range(count_y), ids)
    axes.tick_params(length=0)
    middle = np.nanmax(values) / 2
    for (y, x), value in np.ndenumerate(values):
        text = NOTHING if math.isnan(value) else f"{value:.3f}".lstrip("0") if value < 1 else "1.00"
        axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color="white" if value < middle else "black")
    figure.colorbar(image, ax=axes, label=f"AP ({_images(rows, split)})", pad=0.02, fraction=0.06)
    return finish(figure, f"ap_classes_{split}", f"AP of each class on {_images(rows, split)}, mean over the seeds.")


def curve_plot(curves: Sequence[Curve], name: str, label: str, *, wide: bool = False) -> Plot | None:
    """Curves with the spread of the seeds; more than six get axes of their own, with the others in grey behind.

    Args:
        name: of the file.
        label: of the y axis.
        wide: values may differ by orders of magnitude, as losses do; the axis is logarithmic then.
    """
    if not curves:
        return None
    columns = 1 if len(curves) <= _TOGETHER else 4
    count = 1 if columns == 1 else len(curves)
    lines = math.ceil(count / columns)
    figure, grid = new_figure(8 if columns == 1 else 10, 4.5 if columns == 1 else 0.6 + 1.7 * lines, lines, columns)
    for spare in grid.flat[count:]:
        spare.set_visible(False)
    look = {curve.entry.id: style(index) for index, curve in enumerate(curves)}
    if columns == 1:
        for curve in curves:
            _draw_curve(grid[0, 0], curve, look[curve.entry.id]["color"])
        _legend(figure, {f"{c.entry.id}  {_short(c.entry)}": look[c.entry.id] for c in curves}, False, lines=True)
    else:
        _draw_apart(grid, curves)
    _curve_limits(grid, curves, wide)
    unit = "epochs" if curves[0].in_epochs else "iterations"
    if columns == 1:
        grid[0, 0].set(xlabel=unit, ylabel=label)
    else:
        figure.supxlabel(unit, fontsize=9)
        figure.supylabel(label, fontsize=9)
    spread = " Bands: least to greatest of the seeds; lines: their mean." if any(c.seeds > 1 for c in curves) else ""
    meaning = " An epoch is one pass over the images that are trained on." if curves[0].in_epochs else ""
    return finish(figure, name, f"{label[:1].upper()}{label[1:]} over training.{spread}{meaning}")


def _draw_apart(grid: np.ndarray, curves: Sequence[Curve]) -> None:
    behind = [np.column_stack([curve.x, curve.mean]) for curve in curves]
    for index, (axes, curve) in enumerate(zip(grid.flat, curves)):
        axes.add_collection(LineCollection(behind, colors="#cccccc", linewidths=0.6, zorder=1))
        _draw_curve(axes, curve, COLORS[0])
        axes.set_title(curve.entry.id, fontsize=8.5, loc="left", pad=3)
        axes.tick_params(labelsize=7, labelleft=index % grid.shape[1] == 0)
        axes.tick_params(labelbottom=index + grid.shape[1] >= len(curves))


def _draw_curve(axes: Axes, curve: Curve, color: str) -> None:
    few = len(curve.x) <= 20
    axes.plot(curve.x, curve.mean, color=color, linewidth=1.4, marker="o" if few else "", markersize=3, zorder=3)
    if curve.seeds > 1:
        axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.22, linewidth=0, zorder=2)


def _curve_limits(grid: np.ndarray, curves: Sequence[Curve], wide: bool) -> None:
    """The same limits everywhere; losses far above the rest do not flatten the others."""
    values = np.concatenate([(*curve.low, *curve.high) for curve in curves])
    right = 1.02 * max(curve.x[-1] for curve in curves)
    if wide and are_far_apart(values):
        for axes in grid.flat:
            set_log_y(axes)
            axes.set(xlim=(0, right), ylim=(values.min() / 1.5, values.max() * 1.5))
        return
    top = min(values.max(), 3 * np.percentile(values, 95))
    bottom = min(0.0, values.min())
    span = (top - bottom) or 0.05
    for axes in grid.flat:
        axes.set_ylim(bottom - 0.02 * span, bottom + 1.05 * span)
        axes.set_xlim(0, right)


def _of(rows: Sequence[Row], split: str) -> list[Row]:
    return [row for row in rows if row.split == split]


def _images(rows: Sequence[Row], split: str) -> str:
    return split + (", synthetic images" if any(row.data for row in _of(rows, split)) else "")


def _has(row: Row) -> bool:
    return MAIN_METRIC in row.metrics


def _summaries(row: Row) -> list[tuple[Summary, bool]]:
    """Ours, then what was reported (True); reported numbers are of real images and have no place beside synthetic."""
    found = [(row.metrics[MAIN_METRIC], False)] if _has(row) else []
    if MAIN_METRIC in row.reported and not row.data:
        found.append((row.reported[MAIN_METRIC], True))
    return found


def _millions(row: Row) -> float | None:
    count = row.parameters("all")
    if count is not None:
        return count / 1e6
    return row.entry.checks.get("trainable", {}).get("all")


def _reported_millions(row: Row) -> float | None:
    return _mean(row.reported.get("parameters/trainable_millions")) or _millions(row)


def _mean(summary: Summary | None) -> float | None:
    return None if summary is None else summary.mean


def _short(entry: Entry) -> str:
    return textwrap.shorten(entry.title, 60, placeholder=" …")


def _method(entry: Entry) -> str:
    return entry.method or "runs"


def _groups(entries: Sequence[Entry]) -> list[str]:
    """A name for each entry made of what differs among them."""
    keys = [key for key in ("method", "targets", "weights", "model") if len({getattr(e, key) for e in entries}) > 1]
    keys = keys or ["targets"]
    return [", ".join(str(getattr(e, key)) for key in keys if getattr(e, key)) or "LoRA" for e in entries]


def _styles(names: Sequence[str]) -> dict[str, dict[str, str]]:
    return {name: style(index) for index, name in enumerate(dict.fromkeys(names))}


def _deviation(summary: Summary) -> tuple[float, float] | None:
    return None if summary.std is None else (summary.mean - summary.std, summary.mean + summary.std)


def _point(
    axes: Axes,
    x: float,
    summary: Summary,
    look: dict[str, str],
    hollow: bool,
    ends: tuple[float, float] | None,
) -> None:
    # An interval over images may lie beside the AP itself.
    reach = ends and [[max(summary.mean - ends[0], 0.0)], [max(ends[1] - summary.mean, 0.0)]]
    axes.errorbar(
        x,
        summary.mean,
        yerr=reach,
        capsize=2.5,
        elinewidth=0.9,
        markersize=6,
        markerfacecolor="white" if hollow else look["color"],
        linestyle="",
        zorder=3 if hollow else 4,
        alpha=0.75 if hollow else 1,
        **look,
    )


def _legend(figure, look: dict[str, dict[str, str]], hollow: bool, lines: bool = False, width: float = 8.0) -> None:
    handles = [
        Line2D([], [], linestyle="-" if lines else "", markersize=6 if not lines else 0, label=name, **one)
        for name, one in look.items()
    ]
    if hollow:
        shape = dict(marker="o", color=INK, markerfacecolor="white", linestyle="")
        handles.append(Line2D([], [], label="reported", **shape))
    widest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), int(13.75 * width) // (widest + 8)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def _log_axis(axes: Axes, values: Sequence[float]) -> None:
    spread = max(values) / min(values)
    low, high = min(values) / max(spread**0.06, 1.02), max(values) * max(spread**0.12, 1.04)
    steps = (
        (1, 2, 5) if spread > 20 else (1, 1.5, 2, 3, 4, 5, 7) if spread > 4 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    )
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
    if len(ticks) < 3:
        ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def _not_below_zero(limits: tuple[float, float]) -> tuple[float, float]:
    """No room for negative AP, save for the lower half of a marker at 0."""
    low, high = limits
    return (max(low, -0.03 * high), high)
