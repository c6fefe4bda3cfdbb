"""Means, deviations and paired intervals over seeds."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from loradet.experiments.results.seed_statistics import paired_difference, summarize, summary_cell

numbers = st.floats(-10, 10)


def test_mean_and_sample_deviation():
    summary = summarize([0.539, 0.491, 0.539])
    assert summary.text() == "0.523 ± 0.028 (3)"
    assert summary.std == pytest.approx(0.0277128, abs=1e-7)


def test_one_run_has_no_deviation():
    assert summarize([0.5]).std is None
    assert summarize([0.5]).text() == "0.500 (1)"
    assert summarize([7.04]).text(1) == "7.0 (1)"


def test_what_is_no_number_is_left_out():
    assert summarize([]) is None
    assert summarize([None, math.nan]) is None
    assert summarize([None, 0.25, math.nan, 0.75]).text() == "0.500 ± 0.354 (2)"


@given(st.lists(numbers, min_size=2, max_size=20), numbers)
def test_deviation_does_not_see_a_shift_and_the_mean_does(values, shift):
    plain, shifted = summarize(values), summarize(value + shift for value in values)
    assert shifted.mean == pytest.approx(plain.mean + shift, abs=1e-9)
    assert shifted.std == pytest.approx(plain.std, abs=1e-9)
    variance = sum((value - plain.mean) ** 2 for value in values) / (len(values) - 1)
    assert plain.std == pytest.approx(math.sqrt(variance), abs=1e-9)


def test_paired_difference_of_shared_seeds():
    # By hand: differences 0.126, 0.072, 0.114; mean 0.104, s = 0.028355, half width 4.3027 · s / √3 = 0.070438
    found = paired_difference({0: 0.539, 1: 0.491, 2: 0.539, 7: 0.1}, {0: 0.413, 1: 0.419, 2: 0.425, 8: 0.9})
    assert found.seeds == (0, 1, 2)
    assert found.mean == pytest.approx(0.104)
    assert (found.low, found.high) == pytest.approx((0.104 - 0.070438, 0.104 + 0.070438), abs=1e-6)


def test_no_interval_of_one_seed_and_nothing_of_none():
    one = paired_difference({0: 0.5}, {0: 0.4, 1: 0.3})
    assert (one.mean, one.low, one.high, one.seeds) == (pytest.approx(0.1), None, None, (0,))
    assert paired_difference({0: 0.5}, {1: 0.4}) is None
    assert paired_difference({0: math.nan}, {0: 0.4}) is None


@given(st.dictionaries(st.integers(0, 9), st.tuples(numbers, numbers), min_size=2), st.floats(0.5, 0.99))
def test_the_interval_is_mirrored_and_grows_with_confidence(pairs, confidence):
    first, second = ({seed: pair[side] for seed, pair in pairs.items()} for side in (0, 1))
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low), abs=1e-9)
    assert there.low <= there.mean <= there.high
    assume(there.high - there.low > 1e-6)
    wider = paired_difference(first, second, 0.5 + confidence / 2)
    narrower = paired_difference(first, second, confidence)
    assert wider.low < narrower.low < narrower.high < wider.high


def test_cells_of_tables():
    assert summary_cell(summarize([0.5, 0.5])) == "0.500 ± 0.000 (2)"
    assert summary_cell(summarize([7.04]), 1) == "7.0 (1)"
    assert summary_cell(None) == "–"
