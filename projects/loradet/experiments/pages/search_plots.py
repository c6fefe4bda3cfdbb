"""Plots of a search: values trial by trial, and against each value of the space."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from loradet.experiments.pages.figures import COLORS, Plot, finish, new_figure
from loradet.experiments.search.definition import Search
from loradet.experiments.search.space import Dimension, shown
from loradet.experiments.search.state import Objective
from loradet.experiments.search.trial import FINISHED, PRUNED, Trial

_LOOK = {FINISHED: (COLORS[0], "o"), PRUNED: (COLORS[1], "x")}
_COLUMNS = 3


def trial_plots(search: Search, objective: Objective, trials: Sequence[Trial]) -> list[Plot]:
    """By trial and by value of the space; none where fewer than two trials have a value."""
    seen = [trial for trial in trials if objective.reached(trial) is not None and trial.state in _LOOK]
    if len(seen) < 2:
        return []
    return [_history(objective, seen), _by_value(search, objective, seen)]


def _history(objective: Objective, trials: Sequence[Trial]) -> Plot:
    figure, ((axes,),) = new_figure(7.0, 3.0)
    _points(axes, objective, trials, [trial.number for trial in trials])
    finished = [trial for trial in trials if trial.state == FINISHED]
    best, steps = None, []
    for trial in finished:
        better = best is None or (trial.value > best if objective.mode == "max" else trial.value < best)
        best = trial.value if better else best
        steps.append((trial.number, best))
    if steps:
        axes.step(*zip(*steps), where="post", color=COLORS[0], linewidth=1, alpha=0.6, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(objective.metric)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=8)
    return finish(figure, "trials", f"{objective.metric} of each trial, and the best up to it.")


def _by_value(search: Search, objective: Objective, trials: Sequence[Trial]) -> Plot:
    dimensions = search.space.dimensions
    columns = min(_COLUMNS, len(dimensions))
    rows = -(-len(dimensions) // columns)
    figure, grid = new_figure(2.9 * columns + 0.6, 2.6 * rows, rows, columns)
    for axes, dimension in zip(grid.flat, dimensions):
        _against(axes, objective, trials, dimension)
    for axes in grid.flat[len(dimensions) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(objective.metric)
    return finish(
        figure,
        "values",
        f"{objective.metric} against each value; the others vary too, so that a slope is no effect of its own.",
    )


def _against(axes: Axes, objective: Objective, trials: Sequence[Trial], dimension: Dimension) -> None:
    points = [trial.point[dimension.key] for trial in trials]
    if dimension.kind == "choice":
        places = [dimension.values.index(point) for point in points]
        axes.set_xticks(range(len(dimension.values)), [_cut(shown(value)) for value in dimension.values])
        axes.tick_params(axis="x", labelsize=7, rotation=20 if max(map(len, map(str, dimension.values))) > 6 else 0)
        axes.set_xlim(-0.5, len(dimension.values) - 0.5)
    else:
        places = points
        if dimension.kind.startswith("log"):
            axes.set_xscale("log")
            # matplotlib's own labels are mathtext, which is off.
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(lambda *_: "")
    _points(axes, objective, trials, places)
    axes.set_xlabel(_cut(dimension.key, 34), fontsize=8)


def _cut(text: str, most: int = 18) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _points(axes: Axes, objective: Objective, trials: Sequence[Trial], places: Sequence[float]) -> None:
    for state, (color, marker) in _LOOK.items():
        own = [(x, objective.reached(trial)) for x, trial in zip(places, trials) if trial.state == state]
        if own:
            axes.scatter(*zip(*own), color=color, marker=marker, s=26, label=state, zorder=3)
