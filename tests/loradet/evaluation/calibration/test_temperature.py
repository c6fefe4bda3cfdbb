"""Temperature scaling, against a fine search and in the cases where nothing can be fitted."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradet.evaluation.calibration.measures import SCORE_EPSILON, negative_log_likelihood
from loradet.evaluation.calibration.temperature import LIMITS, Temperature, fit_temperature


def cross_entropy(scores, correct, temperature):
    total = 0.0
    for score, right in zip(scores, correct):
        clipped = min(max(score, SCORE_EPSILON), 1 - SCORE_EPSILON)
        z = (math.log(clipped) - math.log1p(-clipped)) / temperature
        total += math.log1p(math.exp(-abs(z))) + max(-z if right else z, 0.0)
    return total / len(scores)


detections = st.lists(st.tuples(st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0]), st.booleans()), max_size=30)


@settings(max_examples=150, deadline=None)
@given(detections)
def test_no_temperature_does_better(pairs):
    scores, correct = np.array([s for s, _ in pairs]), np.array([c for _, c in pairs], bool)
    fitted = fit_temperature(scores, correct)
    assert LIMITS[0] <= fitted.value <= LIMITS[1]
    assert fitted.detections == len(pairs)
    if len(set(correct.tolist())) < 2:
        assert fitted.value == 1 and fitted.note
        return
    best = cross_entropy(scores, correct, fitted.value)
    others = np.geomspace(*LIMITS, 81)
    near = fitted.value * np.array([0.999, 1.001])
    candidates = [*others, *near[(near > LIMITS[0]) & (near < LIMITS[1])]]
    assert best <= min(cross_entropy(scores, correct, value) for value in candidates) * (1 + 1e-9) + 1e-12
    before, after = (negative_log_likelihood(s, correct) for s in (scores, fitted.apply(scores)))
    assert after <= before + SCORE_EPSILON + 1e-12


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(-0.5, 2, 200_000)
    correct = rng.random(len(logits)) < 1 / (1 + np.exp(-logits / true))
    fitted = fit_temperature(1 / (1 + np.exp(-logits)), correct)
    assert fitted.value == pytest.approx(true, rel=0.02)
    assert fitted.note == ""


def test_an_analytic_minimum():
    # Scores of 0.9 and three in four right: sigmoid(logit(0.9) / T) = 0.75.
    fitted = fit_temperature(np.full(4, 0.9), np.array([True, True, True, False]))
    assert fitted.value == pytest.approx(math.log(9) / math.log(3), rel=1e-9)
    assert fitted.apply(np.array([0.9]))[0] == pytest.approx(0.75, rel=1e-9)


@pytest.mark.parametrize(
    ("scores", "correct", "value", "note"),
    [
        ([], [], 1.0, "no detections"),
        ([0.2, 0.9], [True, True], 1.0, "every detection is correct"),
        ([0.2, 0.9], [False, False], 1.0, "no detection is correct"),
        ([0.5, 0.5], [True, False], 1.0, "every score is 0.5"),
        ([0.0, 1.0], [False, True], LIMITS[0], "lower limit"),
        ([0.0, 1.0], [True, False], LIMITS[1], "upper limit"),
    ],
)
def test_where_there_is_no_minimum(scores, correct, value, note):
    fitted = fit_temperature(np.array(scores), np.array(correct, bool))
    assert fitted.value == value
    assert note in fitted.note
    assert fitted.to_dict() == {"value": value, "fitted_on_detections": len(scores), "note": fitted.note}
    assert np.isfinite(fitted.apply(np.array([0.0, 0.3, 1.0]))).all()


def test_scores_of_zero_and_one_are_fitted():
    fitted = fit_temperature(np.array([0.0, 0.0, 1.0, 1.0, 1.0]), np.array([False, True, True, True, False]))
    # Two in five against the scores, which are all as far from 0.5: sigmoid(z / T) = 0.6.
    edge = math.log1p(-SCORE_EPSILON) - math.log(SCORE_EPSILON)
    assert fitted.value == pytest.approx(edge / math.log(0.6 / 0.4), rel=1e-6)


def test_order_stays_and_one_changes_nothing():
    scores = np.sort(np.random.default_rng(1).random(100))
    assert (np.diff(Temperature(3.0).apply(scores)) > 0).all()
    ends = np.array([0.0, 0.5, 1.0])
    assert Temperature(1.0).apply(ends).tolist() == ends.tolist()
    assert Temperature(2.0).apply(np.array([0.5]))[0] == 0.5


def test_text_says_where_it_comes_from():
    assert str(Temperature(1.5)) == "temperature 1.5000, given"
    fitted = fit_temperature(np.array([0.9, 0.8, 0.4]), np.array([True, False, True]))
    assert str(fitted) == f"temperature {fitted.value:.4f}, fitted on 3 detections of another split"
    nothing = fit_temperature(np.zeros(0), np.zeros(0, bool))
    assert str(nothing).endswith("fitted on 0 detections of another split; no detections to fit on")


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match="above 0"):
        Temperature(value)
