"""What a search asks of Optuna: points that do not depend on interruptions, and when a trial is bad."""

import math

import pytest
from helpers.search_trial import LR, RANK

from loradet.experiments.search.asker import Asker
from loradet.experiments.search.definition import Prune, Search
from loradet.experiments.search.space import read_space
from loradet.experiments.search.trial import Trial

optuna = pytest.importorskip("optuna")

SPACE = read_space({LR: {"loguniform": [1e-5, 1e-2]}, RANK: {"choice": [2, 4, 8]}}, "here")


def search(**values):
    return Search(**{"name": "tiny", "config": "none.py", "space": SPACE, **values})


def height(point):
    return 50 - 10 * abs(math.log10(point[LR] / 1e-3)) - abs(point[RANK] - 4)


def go_on(trials, count, state="finished", mode="max", **values):
    """A session that brings a search from the trials there are to so many."""
    asker = Asker(search(**values), mode, trials)
    for number in range(len(trials), count):
        trial = Trial(number=number, run=f"trial_{number}", point=asker.ask(number), words=[])
        trial.state = state
        trial.value = (1 if mode == "max" else -1) * height(trial.point) if state == "finished" else None
        asker.tell(trial)
        trials.append(trial)
    return trials


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_goes_on_asks_what_one_in_one_go_asks(sampler):
    whole = go_on([], 24, sampler=sampler)
    parts = []
    for count in (1, 7, 8, 15, 24):
        parts = go_on(parts, count, sampler=sampler)
    assert [trial.point for trial in parts] == [trial.point for trial in whole]
    assert len({trial.point[LR] for trial in parts}) == 24


def test_a_sampler_that_is_seeded_once_does_ask_again():
    """What the test above is about, seen in Optuna itself."""
    distributions = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    studies = [optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0)) for _ in range(2)]
    assert studies[0].ask(distributions).params == studies[1].ask(distributions).params


def test_another_seed_asks_other_points():
    ours, theirs = go_on([], 3), go_on([], 3, seed=1)
    assert not {trial.point[LR] for trial in ours} & {trial.point[LR] for trial in theirs}


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_sampler_learns(mode):
    trials = go_on([], 40, mode=mode)
    first, last = (sum(height(trial.point) for trial in part) / 20 for part in (trials[:20], trials[20:]))
    assert last > first + 2


def test_a_trial_below_the_median_of_the_others_is_bad():
    asker = Asker(search(prune=Prune(startup_trials=3)), "max", [])
    for number, value in enumerate((10.0, 20.0, 30.0)):
        asker.ask(number)
        assert not asker.report(number, 1, value)
        asker.tell(Trial(number=number, run="", point={}, words=[], state="finished", value=value))
    asker.ask(3)
    assert asker.report(3, 1, 19.0)
    asker.ask(4)
    assert not asker.report(4, 1, 21.0)


def test_what_was_evaluated_before_an_interruption_counts():
    point = {LR: 1e-3, RANK: 4}
    past = [
        Trial(number=n, run="", point=point, words=[], state="finished", value=v, evaluations=[v / 2, v])
        for n, v in enumerate((10.0, 20.0, 30.0))
    ]
    opened = Trial(number=3, run="", point={LR: 2e-3, RANK: 8}, words=[], evaluations=[2.0])
    asker = Asker(search(prune=Prune(startup_trials=3)), "max", [*past, opened])
    assert asker.report(3, 2, 12.0)  # below 20
    asker = Asker(search(prune=Prune(startup_trials=3)), "max", [*past, opened])
    assert not asker.report(3, 2, 25.0)


def test_never_is_never():
    asker = Asker(search(prune=None), "max", go_on([], 9))
    asker.ask(9)
    assert not asker.report(9, 1, -100.0)


@pytest.mark.parametrize("state", ["failed", "diverged", "pruned", "open"])
def test_trials_without_a_value_are_taken_up(state):
    past = [Trial(number=0, run="", point={LR: 1e-3, RANK: 4}, words=[], state=state)]
    assert Asker(search(), "max", past).ask(1)[LR] != 1e-3
