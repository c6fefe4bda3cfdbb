"""Grids: axes, exclusions and templates."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradet.experiments.study.definition import Reported
from loradet.experiments.study.grid import expand_grid, make_entry

AXES = {
    "rank": {4: {"alpha": 8.0}, 8: {"alpha": 16.0}},
    "layers": {"fc1": {"targets": "[mlp.fc1]"}, "fc2": {"targets": "[mlp.fc2]"}},
    "warm": [True, False],
}
TEMPLATE = dict(
    id="r{rank}_{layers}_{warm}",
    title="rank {rank}",
    objective="try",
    overrides=["a.rank={rank}", "a.targets={targets}"],
    checks={"metric_at_least": {"val {layers}": "{alpha}"}},
    rank="{rank}",
    alpha="{alpha}",
    seeds=[0, 1],
)


def test_a_grid_is_every_combination_with_the_last_axis_fastest():
    entries = expand_grid(AXES, TEMPLATE)
    combinations = itertools.product((4, 8), ("fc1", "fc2"), (True, False))
    assert [entry.id for entry in entries] == [f"r{r}_{layers}_{warm}" for r, layers, warm in combinations]
    last = entries[-1]
    assert (last.rank, last.alpha, last.seeds) == (8, 16.0, (0, 1))  # fields keep their types
    assert last.overrides == ("a.rank=8", "a.targets=[mlp.fc2]")
    assert last.checks == {"metric_at_least": {"val {layers}": 16.0}}  # keys are no texts to fill


@given(st.sets(st.tuples(st.sampled_from([4, 8]), st.sampled_from(["fc1", "fc2"])), max_size=3))
def test_excluded_combinations_are_left_out(excluded):
    entries = expand_grid(AXES, TEMPLATE, ({"rank": rank, "layers": layers} for rank, layers in excluded))
    assert len(entries) == 8 - 2 * len(excluded)
    assert not {(e.rank, e.overrides[1].split(".")[-1].rstrip("]")) for e in entries} & excluded


def test_a_rule_of_one_axis_excludes_all_its_combinations():
    assert {entry.rank for entry in expand_grid(AXES, TEMPLATE, [{"rank": 4}])} == {8}


@pytest.mark.parametrize(
    ("template", "exclude", "words"),
    [
        ({**TEMPLATE, "title": "{depth}"}, [], ["{depth}", "no field 'depth'", "rank", "targets"]),
        (TEMPLATE, [{"rank": 5}], ["exclude", "rank=5"]),
        (TEMPLATE, [{"depth": 5}], ["exclude", "depth=5"]),
        (TEMPLATE, [{"rank": 4}, {"rank": 8}], ["no entry", "rank"]),
        ({**TEMPLATE, "ranks": 4}, [], ["r4_fc1_True", "ranks"]),
        ({"id": "r{rank}"}, [], ["r4", "title"]),
        ({**TEMPLATE, "seeds": 3}, [], ["r4_fc1_True", "seeds=3", "expected a list"]),
    ],
)
def test_a_mistake_is_named(template, exclude, words):
    with pytest.raises(ValueError) as caught:
        expand_grid(AXES, template, exclude)
    assert all(word in str(caught.value) for word in words), caught.value


def test_published_numbers_may_be_plain_values():
    plain = {"id": "a", "title": "A", "objective": "try", "reported": [{"split": "val", "metrics": {"x": 0.5}}]}
    assert make_entry(plain).reported == (Reported(split="val", metrics={"x": 0.5}),)
    plain["reported"][0]["sead"] = 1
    with pytest.raises(ValueError, match=r"Entry a: .*sead"):
        make_entry(plain)
