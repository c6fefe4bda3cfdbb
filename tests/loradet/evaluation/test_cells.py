"""Numbers in tables."""

import math

import pytest

from loradet.evaluation.cells import NOTHING, millions_cell, number_cell


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_is_no_number_is_a_dash(value):
    assert number_cell(value) == NOTHING == "–"


def test_digits():
    assert number_cell(0.12345) == "0.123"
    assert number_cell(12.6, 0) == "13"
    assert millions_cell(4_331_520) == "4.332"
    assert millions_cell(0) == "0.000"
    assert millions_cell(None) == NOTHING
