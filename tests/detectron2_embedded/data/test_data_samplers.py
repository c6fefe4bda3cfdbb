import itertools
from collections import Counter

import pytest
import torch
from detectron2.data.samplers import (
    GroupedBatchSampler,
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, SequentialSampler

no_reset = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def ranks(monkeypatch):
    """Builds what each rank of a group would build."""

    def build(world_size: int, make) -> list:
        built = []
        monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
        for rank in range(world_size):
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            built.append(make())
        return built

    return build


@no_reset
@given(size=st.integers(1, 30), world_size=st.integers(1, 5), shuffle=st.booleans(), seed=st.integers(0, 99))
def test_ranks_together_give_whole_passes(ranks, size, world_size, shuffle, seed):
    samplers = ranks(world_size, lambda: TrainingSampler(size, shuffle=shuffle, seed=seed))
    streams = [list(itertools.islice(s, 2 * size)) for s in samplers]
    joined = [index for step in zip(*streams) for index in step]
    for start in range(0, len(joined) - size + 1, size):
        assert sorted(joined[start : start + size]) == list(range(size))
    if not shuffle:
        assert joined[:size] == list(range(size))


@no_reset
@given(size=st.integers(1, 40), world_size=st.integers(1, 7))
def test_inference_visits_everything_once(ranks, size, world_size):
    samplers = ranks(world_size, lambda: InferenceSampler(size))
    assert [i for s in samplers for i in s] == list(range(size))
    lengths = [len(s) for s in samplers]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("size", "world_size", "shares"),
    [
        (0, 5, [range(0)] * 5),
        (2, 3, [range(1), range(1, 2), range(0)]),
        (7, 3, [range(3), range(3, 5), range(5, 7)]),
        (16, 2, [range(8), range(8, 16)]),
    ],
)
def test_shares_of_inference(size, world_size, shares):
    """Detectron2 0.6 (main of 2026-06-06): in order, the first ranks take one more where it does not divide."""
    found = [InferenceSampler._get_local_indices(size, world_size, rank) for rank in range(world_size)]
    assert found == shares


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 5))
def test_batches_of_one_group(groups, batch_size):
    sampler = GroupedBatchSampler(SequentialSampler(range(len(groups))), groups, batch_size)
    batches = [batch for batch in sampler]  # noqa: C416  list() would ask for a length
    for batch in batches:
        assert len(batch) == batch_size
        assert len({groups[index] for index in batch}) == 1
    assert [batch[-1] for batch in batches] == sorted(batch[-1] for batch in batches)
    for group in set(groups):
        members = [index for index, g in enumerate(groups) if g == group]
        seen = [index for batch in batches for index in batch if groups[index] == group]
        assert seen == members[: len(members) // batch_size * batch_size]


def test_indices_that_filled_no_batch_come_first_in_the_next_iteration():
    """As in Detectron2 0.6 (main of 2026-06-06)."""
    sampler = GroupedBatchSampler(SequentialSampler(range(5)), [0, 0, 1, 0, 1], 2)
    assert [batch for batch in sampler] == [[0, 1], [2, 4]]  # noqa: C416
    assert [batch for batch in sampler] == [[3, 0], [1, 3], [2, 4]]  # noqa: C416


def test_a_loader_takes_grouped_batches():
    sampler = GroupedBatchSampler(SequentialSampler(range(6)), [0, 1] * 3, 3)
    assert [batch.tolist() for batch in DataLoader(range(6), batch_sampler=sampler)] == [[0, 2, 4], [1, 3, 5]]


def test_grouped_batches_of_wrong_arguments():
    with pytest.raises(ValueError):
        GroupedBatchSampler([0, 1], [0, 0], 2)
    with pytest.raises(AssertionError):
        GroupedBatchSampler(SequentialSampler(range(2)), [[0, 0]], 2)
    with pytest.raises(NotImplementedError):
        len(GroupedBatchSampler(SequentialSampler(range(2)), [0, 0], 2))


@pytest.mark.subset
def test_grouped_batches_go_on_after_an_iteration_that_was_left():
    """Detectron2 hands a batch out before it forgets it: that group never fills again."""
    sampler = GroupedBatchSampler(SequentialSampler(range(4)), [0] * 4, 2)
    for _ in range(3):
        assert next(iter(sampler)) == [0, 1]


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_subset_is_drawn_once(shuffle):
    sampler = RandomSubsetTrainingSampler(20, 0.25, shuffle=shuffle, seed_shuffle=1, seed_subset=2)
    stream = list(itertools.islice(sampler, 15))
    first, second, third = stream[:5], stream[5:10], stream[10:]
    assert len(set(first)) == 5
    assert set(first) == set(second) == set(third)
    assert (first == second == third) is not shuffle
    other = RandomSubsetTrainingSampler(20, 0.25, shuffle=shuffle, seed_shuffle=7, seed_subset=2)
    assert set(itertools.islice(other, 5)) == set(first)
    with pytest.raises(AssertionError):
        RandomSubsetTrainingSampler(20, 1.5)
    with pytest.raises(AssertionError):
        RandomSubsetTrainingSampler(2, 0.1)


def test_repeats_come_in_proportion():
    factors = torch.tensor([1.0, 2.5, 1.0, 3.0])
    sampler = RepeatFactorTrainingSampler(factors, seed=3)
    count = Counter(itertools.islice(sampler, 7500))  # 1000 passes of 7.5 on average
    for index, factor in enumerate(factors.tolist()):
        assert count[index] / 1000 == pytest.approx(factor, rel=0.05)


def test_repeat_factors_by_hand():
    """Category 0 is in 4 of 4 images, 1 in 1 of 4: with threshold 1, sqrt(1 / 0.25) = 2."""
    records = [{"annotations": [{"category_id": 0}]} for _ in range(3)]
    records.append({"annotations": [{"category_id": 0}, {"category_id": 1}, {"category_id": 1}]})
    compute = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    assert compute(records, 1.0).tolist() == [1, 1, 1, 2]
    assert compute(records, 1.0, sqrt=False).tolist() == [1, 1, 1, 4]


def test_a_sampler_without_seed_takes_the_shared_one(monkeypatch):
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 5)
    found = list(itertools.islice(TrainingSampler(9), 9))
    assert found == list(itertools.islice(TrainingSampler(9, seed=5), 9))
