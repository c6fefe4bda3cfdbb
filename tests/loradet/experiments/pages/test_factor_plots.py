"""Curves of a study of factors: what is drawn of runs whose epochs do not have the same length."""

import numpy as np
import pytest
from helpers.factor_trial import EPOCH, EPOCHS, diverged, ofat, trained

from loradet.experiments.factors.runs import FactorRun
from loradet.experiments.pages import factor_plots
from loradet.experiments.pages.figures import drawing_style
from loradet.experiments.results.dynamics import run_dynamics

ENTRY = ofat().entry("base")


def run(root, seed, slope, length=EPOCH, epochs=EPOCHS):
    """AP and loss grow evenly, so that what lies between two logged lines is known."""
    values = [slope * EPOCH * (line + 1) / length for line in range(epochs)]
    result = trained(root, ENTRY, seed, values, losses=[2 + value for value in values], iterations_per_epoch=length)
    return FactorRun(result=result, dynamics=run_dynamics(result), split="val")


@pytest.fixture
def axes_of(monkeypatch):
    """Runs of one level -> the two axes that are drawn."""
    figures = []
    finish = factor_plots.finish
    monkeypatch.setattr(factor_plots, "finish", lambda figure, *rest: figures.append(figure) or finish(figure, *rest))

    def draw(*runs):
        with drawing_style():
            factor_plots.level_curves("batch", {8: runs}, "AP50")
        return figures[-1].axes

    return draw


def test_epochs_of_two_lengths_have_a_mean_over_what_both_cover(tmp_path, axes_of):
    # Points at 1, 2 ... 12 epochs, and at 5/7, 10/7 ... 60/7.
    for axes in axes_of(run(tmp_path, 0, 0.02), run(tmp_path, 1, 0.04, length=7)):
        (line,) = axes.lines
        x, y = line.get_data()
        both = {*range(1, 9), *(5 * n / 7 for n in range(2, EPOCHS + 1))}
        np.testing.assert_allclose(x, sorted(both), atol=1e-6)
        start = 2 * (axes.get_ylabel() == "training loss")
        np.testing.assert_allclose(y, start + 0.03 * x, atol=1e-6)
        (band,) = axes.collections
        edges = band.get_paths()[0].vertices
        at = edges[np.isclose(edges[:, 0], x[3])][:, 1]
        assert [at.min() - start, at.max() - start] == pytest.approx([0.02 * x[3], 0.04 * x[3]], abs=1e-6)


def test_epochs_of_one_length_are_drawn_where_they_were_logged(tmp_path, axes_of):
    for axes in axes_of(run(tmp_path, 0, 0.02), run(tmp_path, 1, 0.04, epochs=5)):
        (line,) = axes.lines
        assert list(line.get_xdata()) == [1, 2, 3, 4, 5]
        assert line.get_marker() == "o"
    for axes in axes_of(run(tmp_path, 2, 0.02)):
        assert len(axes.lines) == 1 and not axes.collections


def test_runs_that_share_no_epoch_have_no_mean(tmp_path, axes_of):
    for axes in axes_of(run(tmp_path, 0, 0.02, length=1), run(tmp_path, 1, 0.02, epochs=3, length=15)):
        assert not axes.lines


def test_a_run_that_diverged_is_in_no_mean(tmp_path, axes_of):
    lost = diverged(tmp_path, ENTRY, 1)
    lost = FactorRun(result=lost, dynamics=run_dynamics(lost), split="val")
    axes = axes_of(run(tmp_path, 0, 0.02), lost)[0]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--", "None"]
    assert len(axes.lines[0].get_xdata()) == EPOCHS
