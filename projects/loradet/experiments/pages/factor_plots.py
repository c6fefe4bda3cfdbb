"""Plots of a study of factors: curves by level, and cell means of two factors."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from loradet.experiments.factors.design import Level, level_text
from loradet.experiments.factors.effects import FactorialAnalysis
from loradet.experiments.factors.runs import FactorRun
from loradet.experiments.pages.figures import Plot, are_far_apart, finish, new_figure, set_log_y, style

Points = Sequence[tuple[float, float]]


def level_curves(factor: str, levels: Mapping[Level, Sequence[FactorRun]], label: str) -> Plot | None:
    """AP of the periodic evaluations and training loss over epochs, one line a level.

    The line is the mean of a level's runs over the epochs that all of them cover, the band from the least to the
    greatest; a run that has diverged is a dashed line of its own that ends in a cross.

    Args:
        levels: level -> its runs.
        label: of the AP, as "AP50".
    """
    if not any(run.dynamics.evaluations for runs in levels.values() for run in runs):
        return None
    figure, grid = new_figure(9, 3.8, 1, 2)
    looks = {level: style(index) for index, level in enumerate(levels)}
    for axes, name in zip(grid[0], ("evaluations", "losses")):
        for level, runs in levels.items():
            color = looks[level]["color"]
            _mean_line(axes, [getattr(run.dynamics, name) for run in runs if not _is_broken(run)], color)
            for run in runs:
                if _is_broken(run) and (points := getattr(run.dynamics, name)):
                    _broken_line(axes, points, color, run.dynamics.diverged)
        axes.set_xlabel("epochs")
        axes.set_xlim(left=0)
    grid[0, 0].set(ylabel=label, ylim=(0, None))
    grid[0, 1].set_ylabel("training loss")
    _scale_losses(grid[0, 1], levels)
    handles = [Line2D([], [], label=f"{factor}={level_text(one)}", color=looks[one]["color"]) for one in levels]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    caption = (
        f"{label} on the validation images and training loss by {factor}. Lines: means over the runs of a level; "
        "bands: least to greatest."
    )
    broken = [run for runs in levels.values() for run in runs if _is_broken(run)]
    if any(run.dynamics.losses for run in broken):
        caption += " Dashed, and in no mean: runs that have not finished, and with a cross those that diverged."
    return finish(figure, f"factor_{_file_name(factor)}", caption)


def interaction_plot(analysis: FactorialAnalysis, first: str, second: str, label: str) -> Plot:
    """Means of the cells of two factors over all others; lines that are not parallel are an interaction."""
    figure, grid = new_figure(5.5, 3.6)
    axes = grid[0, 0]
    names = list(analysis.factors)
    x, of = names.index(first), names.index(second)
    for index, level in enumerate(analysis.factors[second]):
        points = []
        for place, other in enumerate(analysis.factors[first]):
            means = [s.mean for cell, s in analysis.cells.items() if cell[x] == other and cell[of] == level]
            if means:
                points.append((place, sum(means) / len(means)))
        axes.plot(*zip(*points), label=f"{second}={level_text(level)}", linewidth=1.4, **style(index))
    axes.set_xticks(range(len(analysis.factors[first])), [level_text(one) for one in analysis.factors[first]])
    axes.set_xlim(-0.3, len(analysis.factors[first]) - 0.7)
    axes.set(xlabel=first, ylabel=label)
    axes.legend(fontsize=8, frameon=False)
    caption = f"{label} by {first} and {second}, mean over the other factors: parallel lines are no interaction."
    return finish(figure, f"interaction_{_file_name(first)}_{_file_name(second)}", caption)


def _is_broken(run: FactorRun) -> bool:
    return run.result.state != "finished" or run.dynamics.diverged


def _mean_line(axes: Axes, runs: Sequence[Points], color: str) -> None:
    """Runs whose epochs have different lengths are logged at different ones: between its own a run is a straight line.

    The line has a point at every run's epochs in the range that all of them cover.
    """
    series = [np.array(points).T for points in runs if points]
    if not series:
        return
    first, last = max(epochs[0] for epochs, _ in series), min(epochs[-1] for epochs, _ in series)
    known = np.unique(np.concatenate([epochs for epochs, _ in series]).round(6))
    shared = known[(known >= round(first, 6)) & (known <= round(last, 6))]
    if not len(shared):
        return
    values = np.array([np.interp(shared, epochs, of_run) for epochs, of_run in series])
    marker = "o" if len(shared) <= 20 else ""
    axes.plot(shared, values.mean(axis=0), color=color, linewidth=1.4, marker=marker, markersize=3)
    if len(series) > 1:
        axes.fill_between(shared, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, linewidth=0)


def _broken_line(axes: Axes, points: Points, color: str, diverged: bool) -> None:
    axes.plot(*zip(*points), color=color, linewidth=1, linestyle="--")
    if diverged:
        axes.plot(*points[-1], color=color, marker="x", markersize=7, linestyle="")


def _scale_losses(axes: Axes, levels: Mapping[Level, Sequence[FactorRun]]) -> None:
    """Losses that are far above most do not flatten the rest."""
    losses = sorted(loss for runs in levels.values() for run in runs for _, loss in run.dynamics.losses)
    if are_far_apart(losses):
        set_log_y(axes)
    elif losses and losses[-1] > (bound := 3 * losses[math.ceil(0.95 * len(losses)) - 1]) > 0:
        axes.set_ylim(top=bound)


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text)
