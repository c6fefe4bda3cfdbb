"""What is told of a run from its log."""

import itertools
import statistics
from dataclasses import replace

import pytest
import torch
from helpers.factor_trial import EPOCH, EPOCHS, RISING, diverged, log, ofat, trained, write_log
from helpers.report_runs import absent
from helpers.small_models import BACKBONES, batch, build
from hypothesis import given
from hypothesis import strategies as st

from loradet.experiments.results.dynamics import oscillation, primary_metric, run_dynamics
from loradet.training.trainer import NonFiniteLossError, Trainer

ENTRY = ofat().entry("base")
FALLING = [2 / (1 + epoch) for epoch in range(EPOCHS)]


def told(root, values=RISING, **more):
    return run_dynamics(trained(root, ENTRY, values=values, **more))


def test_best_and_convergence_are_counted_in_epochs(tmp_path):
    found = told(tmp_path)
    assert found.evaluations == tuple((epoch + 1, pytest.approx(value)) for epoch, value in enumerate(RISING))
    assert (found.best, found.best_epoch) == (pytest.approx(max(RISING)), EPOCHS)
    # 1 - 0.6^n reaches 0.9 (1 - 0.6^12) at n = 5.
    assert found.convergence_epoch == 5
    assert found.overfitting_epoch is None
    assert not found.diverged


def test_the_first_of_equal_bests_is_the_best_epoch(tmp_path):
    assert told(tmp_path, [0.1, 0.4, 0.3, 0.4, 0.4]).best_epoch == 2


def test_a_batch_twice_as_large_has_epochs_half_as_long(tmp_path):
    assert told(tmp_path, iterations_per_epoch=2 * EPOCH).best_epoch == EPOCHS / 2
    assert told(tmp_path, iterations_per_epoch=None).best_epoch is None


def test_oscillation_is_what_goes_back_and_forth_after_convergence(tmp_path):
    assert told(tmp_path).oscillation == pytest.approx(0, abs=1e-12)
    # From 0.46 on: changes 0.04, -0.04, 0.02, of which 0.02 is the way made.
    found = told(tmp_path, [0.1, 0.2, 0.46, 0.5, 0.46, 0.48])
    assert found.convergence_epoch == 3
    assert found.oscillation == pytest.approx((0.10 - 0.02) / 3)
    assert told(tmp_path, [0.1, 0.2, 0.46, 0.5]).oscillation is None


@given(st.lists(st.floats(0, 1), min_size=3, max_size=20))
def test_oscillation_is_twice_the_smaller_way(values):
    changes = [b - a for a, b in itertools.pairwise(values)]
    up, down = sum(c for c in changes if c > 0), -sum(c for c in changes if c < 0)
    assert oscillation(values) == pytest.approx(2 * min(up, down) / len(changes), abs=1e-9)
    assert oscillation(sorted(values)) == pytest.approx(0, abs=1e-9)


def test_gradients_are_judged_by_their_second_half_and_their_spikes(tmp_path):
    norms = [100.0] * 6 + [1.0, 3.0, 1.0, 3.0, 1.0, 3.0]
    found = told(tmp_path, norms=norms)
    assert found.gradient_variation == pytest.approx(statistics.stdev(norms[6:]) / 2)
    assert found.gradient_spikes == 0  # the median of all is 51.5
    assert told(tmp_path, norms=[1.0] * 10 + [5.0, 5.1]).gradient_spikes == 1


def test_the_plateau_counts_from_the_last_gain(tmp_path):
    # 0.4916 at epoch 8, and above it by more than 0.005 at 10: 0.4970.
    assert told(tmp_path).plateau_epochs == 2
    assert told(tmp_path, [0.1, 0.2, 0.2, 0.204, 0.2, 0.2]).plateau_epochs == 4
    # Small steps that add up are a gain, if a late one.
    assert told(tmp_path, [0.2, 0.204, 0.208, 0.2]).plateau_epochs == 1


def test_overfitting_is_a_fall_of_ap_under_a_falling_loss(tmp_path):
    values = [0.2, 0.4, 0.5, 0.5, 0.49, 0.47, 0.45, 0.44, 0.43, 0.42, 0.41, 0.40]
    assert told(tmp_path, values).overfitting_epoch == 3
    rising = [2.0] * 3 + [2.1 + 0.1 * epoch for epoch in range(EPOCHS - 3)]
    assert told(tmp_path, values, losses=rising).overfitting_epoch is None
    # A noisy curve always falls from its best.
    noisy = [0.4, 0.5, 0.44, 0.5, 0.44, 0.5, 0.44, 0.5, 0.44, 0.49, 0.44, 0.44]
    assert told(tmp_path, noisy).overfitting_epoch is None
    # Two evaluations after the best are too few to tell.
    assert told(tmp_path, [*([0.1] * 9), 0.5, 0.1, 0.1]).overfitting_epoch is None


def test_the_error_names_where_a_run_diverged(tmp_path):
    run = diverged(tmp_path, ENTRY, iteration=23)
    found = run_dynamics(run)
    assert (found.diverged, found.diverged_at) == (True, 23)
    assert found.best_epoch == 4
    lost = replace(run, detail="FloatingPointError: boxes that are NaN or infinite: training has diverged.", record={})
    assert (run_dynamics(lost).diverged, run_dynamics(lost).diverged_at) == (True, None)
    other = replace(run, detail="OutOfMemoryError: CUDA out of memory", record={})
    assert not run_dynamics(other).diverged


def test_the_trainer_s_own_error_is_understood(tmp_path):
    class Toy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, batch):
            return {"loss": self.weight * batch[0]["y"]}

    model = Toy()
    data = [[{"y": 1.0, "image_id": 0}], [{"y": 1.0, "image_id": 1}], [{"y": float("nan"), "image_id": 2}]]
    with pytest.raises(NonFiniteLossError) as error:
        Trainer(model, data, torch.optim.SGD(model.parameters(), lr=0.1), output_dir=tmp_path).train(0, 3)
    run = absent(tmp_path, ENTRY, state="failed", detail=f"{type(error.value).__name__}: {error.value}")
    assert run_dynamics(run).diverged_at == 2


@pytest.mark.parametrize(
    ("detector", "words"), [("Faster R-CNN", "(proposal generator|Predicted boxes)"), ("DETR", "Matching")]
)
def test_a_detector_that_diverges_says_at_which_iteration(tmp_path, detector, words):
    """They stop in the forward pass, where there is no loss yet."""
    model = build(BACKBONES["ViT"], detector, "probe")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e30)
    data = [[{**sample, "image_id": 7 + i} for i, sample in enumerate(batch())]] * 4
    with pytest.raises(NonFiniteLossError, match=rf"{words}.*images of the batch: \[7, 8\]") as error:
        Trainer(model, data, optimizer, output_dir=tmp_path).train(0, 4)
    run = absent(tmp_path, ENTRY, state="failed", detail=f"{type(error.value).__name__}: {error.value}")
    assert (run_dynamics(run).diverged, run_dynamics(run).diverged_at) == (True, 1)


def test_a_loss_that_goes_up_for_good_has_diverged_too(tmp_path):
    exploding = [2.0, 1.8, 1.6, 1.5, 1.4, 50.0, 1.4, 60.0, 70.0, 80.0, 90.0, 99.0]
    found = told(tmp_path, losses=exploding)
    assert (found.diverged, found.diverged_at) == (True, 8 * EPOCH - 1)
    assert told(tmp_path, losses=[2.0, 1.8, 1.6, 50.0, *([1.0] * 8)]).diverged_at is None
    # It may do so between the first logged lines.
    assert told(tmp_path, losses=[2850.0, 1.5e6, 4.1e6, 3.7e6, 3.7e6]).diverged_at == 2 * EPOCH - 1


@pytest.mark.parametrize(
    ("high", "state", "expected"),
    [
        (1, "finished", None),
        (2, "finished", None),
        (3, "finished", 10),
        (1, "failed", 12),
        (1, "interrupted", 12),
    ],
)
def test_a_spike_at_the_end_of_a_finished_run_is_no_divergence(tmp_path, high, state, expected):
    losses = [2.0, *([1.0] * (EPOCHS - 1 - high)), *([9.0] * high)]
    found = run_dynamics(replace(trained(tmp_path, ENTRY, losses=losses), state=state))
    assert found.diverged_at == (expected and EPOCH * expected - 1)
    assert found.diverged == (expected is not None)


def test_a_loss_that_is_nan_to_the_end_has_diverged(tmp_path):
    losses = [*([1.0] * (EPOCHS - 4)), 9.0, *([float("nan")] * 3)]
    assert told(tmp_path, losses=losses).diverged_at == EPOCH * (EPOCHS - 3) - 1


def test_a_run_without_a_log_says_nothing(tmp_path):
    found = run_dynamics(absent(tmp_path, ENTRY))
    assert found.best is found.best_epoch is found.oscillation is found.gradient_spikes is None
    assert not found.diverged
    assert found.empty_evaluations == 0


def test_the_log_of_another_config_s_run_is_left_alone(tmp_path):
    run = replace(trained(tmp_path, ENTRY), state="changed", metrics={})
    assert run_dynamics(run).evaluations == ()


def with_nan(root, values, *places):
    run = trained(root, ENTRY, values=values)
    lines = log(values)
    told = [line for line in lines if "bbox/AP50" in line]
    for place in places:
        told[place] |= dict.fromkeys(("bbox/AP", "bbox/AP50"), float("nan"))
    write_log(run.folder, lines)
    return run_dynamics(run)


def test_an_evaluation_that_finds_nothing_counts_as_0(tmp_path):
    found = with_nan(tmp_path, [0.1, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 0, 4, 5, 6, 7)
    assert found.empty_evaluations == 5
    assert [value for _, value in found.evaluations] == pytest.approx([0, 0.4, 0.5, 0.5, 0, 0, 0, 0])
    assert (found.best_epoch, found.plateau_epochs) == (3, 5)
    assert [value for _, value in with_nan(tmp_path, [0.1, 0.4], 0, 1).evaluations] == [0, 0]


def test_a_class_without_boxes_has_no_ap_to_count(tmp_path):
    run = trained(tmp_path, ENTRY, values=[0.1, 0.4])
    write_log(run.folder, [{**line, "bbox/AP-head": float("nan")} for line in log([0.1, 0.4])])
    found = run_dynamics(run, "bbox/AP-head")
    assert (found.evaluations, found.empty_evaluations) == ((), 0)


def test_a_run_that_learns_nothing_does_not_converge(tmp_path):
    found = told(tmp_path, [0.0, 0.0, 0.004, 0.0, 0.0, 0.0])
    assert found.best == pytest.approx(0.004)
    assert found.best_epoch is found.convergence_epoch is found.plateau_epochs is found.oscillation is None
    assert found.overfitting_epoch is None


def test_the_primary_metric_is_the_one_that_chose_the_best_weights(tmp_path):
    run = trained(tmp_path, ENTRY)
    assert primary_metric([absent(tmp_path, ENTRY), run]) == "bbox/AP50"
    assert primary_metric([replace(run, record={"best": {"metric": "bbox/AP"}})]) == "bbox/AP"
    assert primary_metric([absent(tmp_path, ENTRY)]) == "bbox/AP50"
    assert run_dynamics(run, "bbox/AP").best == pytest.approx(0.6 * max(RISING))
