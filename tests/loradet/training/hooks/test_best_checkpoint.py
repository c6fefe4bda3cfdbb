"""Which evaluation is the best, and what an evaluation without detections counts as."""

import math
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage
from torch import nn

from loradet.training.hooks import EvaluateAndKeepBest
from loradet.training.memory import TrainingMemory

NOTHING_FOUND = {"AP": math.nan, "AP50": math.nan}


def run(results, metric="bbox/AP", mode="max", **kwargs):
    """Evaluate these results one after another; returns the iterations that were saved, and the stops."""
    saved, stops = [], []
    stream = iter(results)
    checkpointer = SimpleNamespace(save=lambda name, only_model, iteration: saved.append(iteration))  # noqa: ARG005
    hook = EvaluateAndKeepBest(1, lambda: {"bbox": next(stream)}, checkpointer, metric=metric, mode=mode, **kwargs)
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(
            **dict(iter=0, max_iter=99, ema=None, module=nn.Module(), memory=TrainingMemory()),
            **dict(storage=storage, stop=stops.append, check_losses=lambda: None),
        )
        for iteration in range(len(results)):
            hook.trainer.iter = iteration
            hook.after_step()
    return saved, stops


@pytest.mark.parametrize(("mode", "expected"), [("max", [0, 1, 3]), ("min", [0, 2])])
def test_better_evaluations_are_saved(mode, expected):
    saved, _ = run([{"AP": value} for value in (10.0, 12.0, 9.0, 13.0, 13.0)], mode=mode)
    assert saved == expected


def test_any_number_beats_nan_and_nan_beats_none():
    saved, _ = run([NOTHING_FOUND, {"AP": 0.0}, NOTHING_FOUND, {"AP": 1.0}])
    assert saved == [0, 1, 3]


def test_a_class_metric_is_nan_where_nothing_was_found():
    saved, _ = run([NOTHING_FOUND, {"AP": 5.0, "AP-ship": 3.0}], metric="bbox/AP-ship")
    assert saved == [0, 1]


@pytest.mark.parametrize("results", [{"AP": 1.0, "AP50": 2.0}, NOTHING_FOUND])
def test_a_misspelt_metric_is_an_error_that_lists_them(results):
    with pytest.raises(ValueError, match=r"'bbox/Ap' is not among.*bbox/AP, bbox/AP50"):
        run([results], metric="bbox/Ap")


def test_patience_counts_evaluations_in_a_row():
    values = [5.0, 4.0, 6.0, 6.05, 6.0]
    saved, stops = run([{"AP": value} for value in values], patience=2, min_delta=0.1)
    assert saved == [0, 2]
    assert len(stops) == 1
    assert "2 evaluations without a better bbox/AP than 6.0" in stops[0]
