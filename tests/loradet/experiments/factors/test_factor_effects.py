"""Main effects and interactions against closed formulas and designs whose effects are known."""

import itertools
import math
import zlib

import numpy as np
import pytest
from scipy import stats

from loradet.experiments.factors.effects import Observation, analyse

LRS, OPTIMIZERS, BATCHES = (0.001, 0.01), ("AdamW", "SGD", "RMSProp"), (8, 32)
FACTORS = {"lr": LRS, "optimizer": OPTIMIZERS, "batch": BATCHES}


def observations(value, factors=FACTORS, seeds=(0,)):
    """`value(seed, levels…)` at every combination."""
    cells = list(itertools.product(*factors.values()))
    return [Observation(dict(zip(factors, cell)), value(seed, *cell)) for cell in cells for seed in seeds]


def noise(seed, *levels):
    return np.random.default_rng([seed, *(zlib.crc32(str(level).encode()) for level in levels)]).normal(0, 0.02)


def effect(found, *levels):
    return next(one for one in found.effects if one.levels == levels)


def row(found, name):
    return next(one for one in found.variance if one.name == name)


def known(_, lr, optimizer, batch):
    main = {0.001: -0.05, 0.01: 0.05, "AdamW": 0.06, "SGD": -0.04, "RMSProp": -0.02, 8: 0.01, 32: -0.01}
    pair = {(0.001, "AdamW"): 0.03, (0.001, "SGD"): -0.02, (0.001, "RMSProp"): -0.01}
    pair |= {(0.01, name): -value for (_, name), value in list(pair.items())}
    return 0.4 + main[lr] + main[optimizer] + main[batch] + pair[lr, optimizer]


def test_known_effects_are_found_again():
    found = analyse(observations(known, seeds=(0, 1)), FACTORS)
    assert found.mean == pytest.approx(0.4)
    assert effect(found, 0.01).estimate == pytest.approx(0.05)
    assert [effect(found, name).estimate for name in OPTIMIZERS] == pytest.approx([0.06, -0.04, -0.02])
    assert effect(found, 0.001, "SGD").estimate == pytest.approx(-0.02)
    assert effect(found, "RMSProp", 32).estimate == pytest.approx(0, abs=1e-12)
    assert found.marginal_mean("optimizer", "AdamW") == pytest.approx(0.46)
    baseline = {"lr": 0.001, "optimizer": "SGD", "batch": 32}
    assert found.best_levels(baseline) == {"lr": 0.01, "optimizer": "AdamW", "batch": 8}
    assert found.balanced
    assert found.left_out == ()


def test_a_balanced_2x2x2_is_montgomery_s_table():
    """Sums of squares from contrasts: (Σ ±y)² / (2³ r); intervals from the pooled variance of the cells."""
    factors = {"a": (0, 1), "b": (0, 1), "c": (0, 1)}
    r = 3
    runs = observations(
        lambda seed, a, b, c: a - 0.5 * b + 0.7 * a * b + 0.1 * c + noise(seed, a, b, c), factors, range(r)
    )
    found = analyse(runs, factors)
    signs = {name: np.array([2 * one.levels[name] - 1 for one in runs]) for name in factors}
    y = np.array([one.value for one in runs])
    cells = y.reshape(8, r)
    pooled = cells.var(axis=1, ddof=1).mean()
    half = stats.t.ppf(0.975, 8 * (r - 1)) * math.sqrt(pooled / (8 * r))
    for term in [("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c")]:
        contrast = (np.prod([signs[name] for name in term], axis=0) * y).sum()
        line = row(found, " × ".join(term))
        assert line.degrees == 1
        assert line.sum_of_squares == pytest.approx(contrast**2 / (8 * r))
        assert line.share == pytest.approx(line.sum_of_squares / ((y - y.mean()) ** 2).sum())
        assert line.f == pytest.approx(line.sum_of_squares / pooled)
        assert line.p == pytest.approx(stats.f.sf(line.f, 1, 8 * (r - 1)))
        own = next(e for e in found.effects if e.factors == term and e.levels == (1,) * len(term))
        assert own.estimate == pytest.approx(contrast / (8 * r))
        assert (own.low, own.high) == pytest.approx((own.estimate - half, own.estimate + half))
    triple = (signs["a"] * signs["b"] * signs["c"] * y).sum()
    assert row(found, "higher orders").sum_of_squares == pytest.approx(triple**2 / (8 * r))
    assert row(found, "within cells (seeds)").sum_of_squares == pytest.approx(pooled * 8 * (r - 1))
    assert sum(line.share for line in found.variance) == pytest.approx(1)
    assert sum(line.degrees for line in found.variance) == len(y) - 1


def test_three_levels_agree_with_means_written_out():
    runs = observations(lambda seed, *cell: known(seed, *cell) + noise(seed, *cell), seeds=(0, 1))
    found = analyse(runs, FACTORS)
    y = np.array([one.value for one in runs]).reshape(2, 3, 2, 2)
    mean, lr, optimizer = y.mean(), y.mean(axis=(1, 2, 3)), y.mean(axis=(0, 2, 3))
    assert [effect(found, name).estimate for name in OPTIMIZERS] == pytest.approx(list(optimizer - mean))
    both = y.mean(axis=(2, 3)) - lr[:, None] - optimizer[None, :] + mean
    for (i, one), (j, other) in itertools.product(enumerate(LRS), enumerate(OPTIMIZERS)):
        assert effect(found, one, other).estimate == pytest.approx(both[i, j])
    line = row(found, "lr × optimizer")
    assert (line.degrees, line.sum_of_squares) == (2, pytest.approx(4 * (both**2).sum()))
    # One of three levels: its effect's variance is s² (1/n - 1/N), with 8 of 24 runs there.
    pooled = y.var(axis=3, ddof=1).mean()
    assert effect(found, "SGD").standard_error == pytest.approx(math.sqrt(pooled * (1 / 8 - 1 / 24)))
    assert found.best_cell() == dict(zip(FACTORS, max(found.cells, key=lambda cell: found.cells[cell].mean)))


def test_levels_of_one_term_add_up_to_0():
    found = analyse(observations(lambda *a: known(*a) + noise(*a), seeds=(0, 1))[:-1], FACTORS)
    for term in {one.factors for one in found.effects}:
        assert sum(e.estimate for e in found.effects if e.factors == term) == pytest.approx(0, abs=1e-12)


def test_without_replicates_there_is_no_interval():
    found = analyse(observations(known), FACTORS)
    assert all(one.low is None and one.standard_error is None for one in found.effects)
    assert all(line.f is None for line in found.variance)
    assert [line.name for line in found.variance][-1] == "higher orders"
    assert "within cells (seeds)" not in [line.name for line in found.variance]


def test_unbalanced_runs_have_effects_of_cells_that_count_the_same():
    """One combination with ten runs in place of one pulls no mean: the marginal mean is that of the cells."""
    runs = observations(known)
    found = analyse(runs + 9 * runs[:1], FACTORS)
    assert not found.balanced
    assert found.mean == pytest.approx(0.4)
    assert effect(found, 0.001).estimate == pytest.approx(-0.05)
    # Type III: what leaving the term out of the whole model costs, here by a regression of its own.
    noisy = [Observation(one.levels, one.value + noise(i)) for i, one in enumerate(runs + 9 * runs[:1])]
    found = analyse(noisy, {"lr": LRS, "batch": BATCHES})
    a, b = ([1.0 if o.levels[n] == first else -1.0 for o in noisy] for n, first in (("lr", 0.001), ("batch", 8)))
    ones, pair = np.ones(len(noisy)), np.array(a) * np.array(b)
    y = np.array([one.value for one in noisy])
    rss = [np.linalg.lstsq(np.stack(x, axis=1), y)[1][0] for x in ([ones, b, pair], [ones, a, b, pair])]
    assert row(found, "lr").sum_of_squares == pytest.approx(rss[0] - rss[1])


def test_a_combination_without_runs_leaves_the_rest_estimable():
    runs = [one for one in observations(known) if tuple(one.levels.values()) != (0.01, "SGD", 32)]
    found = analyse(runs, FACTORS)
    assert effect(found, "SGD").estimate == pytest.approx(-0.04)  # the model holds without the third order
    assert len(found.cells) == 11
    assert not found.balanced


def test_a_half_fraction_has_main_effects_and_says_what_it_leaves_out():
    factors = dict.fromkeys("abc", (-1, 1))
    runs = [
        one for one in observations(lambda _, a, b, c: 2 * a + b - c, factors) if math.prod(one.levels.values()) == 1
    ]
    found = analyse(runs, factors)
    mains = [next(e for e in found.effects if e.factors == (name,) and e.levels == (1,)) for name in "abc"]
    assert [one.estimate for one in mains] == pytest.approx([2, 1, -1])
    assert found.left_out == (("a", "b"), ("a", "c"), ("b", "c"))


def test_a_level_without_a_run_has_no_analysis():
    assert analyse([], FACTORS) is None
    assert analyse([one for one in observations(known) if one.levels["lr"] == 0.001], FACTORS) is None


def test_runs_that_are_all_the_same_have_no_shares():
    found = analyse(observations(lambda *_: 0.3, seeds=(0, 1, 2)), FACTORS)
    assert all(line.share is None for line in found.variance)
    assert all(line.f is None for line in found.variance)
