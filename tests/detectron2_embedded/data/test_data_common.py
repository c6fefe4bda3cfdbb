import io
import itertools
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch.multiprocessing  # noqa: F401  teaches ForkingPickler to share tensors
from detectron2.data import DatasetFromList, MapDataset, ToIterableDataset
from detectron2.data.common import AspectRatioGroupedDataset, set_default_dataset_from_list_serialize_method
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import data

item = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5), max_size=3)


class Fixed(data.Sampler):
    """Given indices in their order."""

    def __init__(self, indices):
        self.indices = indices

    def __iter__(self):
        return iter(self.indices)

    def __len__(self):
        return len(self.indices)


@given(st.lists(item, min_size=1, max_size=8))
def test_a_serialized_list_reads_as_the_list(lst):
    dataset = DatasetFromList(lst)
    assert len(dataset) == len(lst)
    assert [dataset[i] for i in range(len(lst))] == lst
    with pytest.raises(IndexError):
        dataset[len(lst)]


@pytest.mark.subset
@given(st.lists(item, max_size=8))
def test_a_serialized_list_counts_from_the_end_and_may_be_empty(lst):
    dataset = DatasetFromList(lst)
    assert [dataset[-i - 1] for i in range(len(lst))] == lst[::-1]
    for index in (len(lst), -len(lst) - 1):
        with pytest.raises(IndexError):
            dataset[index]


@pytest.mark.parametrize("serialize", [True, False])
def test_changes_of_an_item_stay_outside(serialize):
    dataset = DatasetFromList([{"boxes": [1, 2]}], copy=True, serialize=serialize)
    dataset[0]["boxes"].append(3)
    assert dataset[0] == {"boxes": [1, 2]}


def test_without_copy_and_serialization_items_are_handed_out():
    lst = [{"a": 1}]
    assert DatasetFromList(lst, copy=False, serialize=False)[0] is lst[0]


def test_a_function_can_store_the_list():
    assert DatasetFromList([1, 2, 3], serialize=lambda lst: lst[::-1])[0] == 3
    with pytest.raises(TypeError):
        DatasetFromList([1], serialize="yes")


def test_the_default_storage_can_be_chosen_for_a_while():
    with set_default_dataset_from_list_serialize_method(lambda lst: lst[::-1]):
        reversed_one = DatasetFromList([1, 2, 3])
        assert DatasetFromList([1, 2, 3], serialize=False)[0] == 1
        assert DatasetFromList([1, 2, 3], serialize=tuple)[0] == 1
    assert reversed_one[0] == 3
    assert DatasetFromList([1, 2, 3])[0] == 1


@pytest.mark.subset
def test_the_default_storage_returns_after_an_error():
    with pytest.raises(ZeroDivisionError), set_default_dataset_from_list_serialize_method(tuple):
        DatasetFromList([1 / 0])
    assert not isinstance(DatasetFromList([1])._items, tuple)


def records_of_some_size() -> list[dict]:
    return [{"file_name": f"{i}.png", "annotations": [{"bbox": [0.0, 1.0, 2.0, 3.0]}] * 5} for i in range(100)]


def test_workers_that_are_spawned_share_the_serialized_list():
    """What travels to a spawned process is a handle of shared memory, not the records."""
    records = records_of_some_size()
    sent = bytes(ForkingPickler.dumps(DatasetFromList(records)))
    assert len(sent) < 2048 < len(pickle.dumps(records))
    received = pickle.loads(sent)
    assert [received[i] for i in range(100)] == records


def test_a_serialized_list_keeps_no_item_objects():
    records = records_of_some_size()
    dataset = DatasetFromList(records)
    buffer = io.BytesIO()
    pickle.dump(dataset, buffer)
    payload = sum(len(pickle.dumps(record, protocol=-1)) for record in records)
    assert buffer.tell() < payload + 100 * 8 + 4096


def test_map_takes_another_item_for_none():
    dataset = MapDataset(list(range(10)), lambda x: x if x % 2 else None)
    assert dataset[3] == 3
    found = {dataset[i] for i in range(0, 10, 2) for _ in range(5)}
    assert found <= {1, 3, 5, 7, 9}
    assert len(dataset) == 10


@pytest.mark.parametrize("size", [4, 30])
def test_map_takes_the_same_other_items_as_detectron2(size):
    """Detectron2 0.6, main of 2026-06-06: drawn with a fixed seed of its own from the items not known to fail."""
    dataset = MapDataset(DatasetFromList(list(range(size))), lambda x: None if x % 3 == 0 else x)
    expected = {4: [1, 1, 2, 1], 30: [4, 1, 11, 11, 11, 7, 5, 25, 4, 28]}[size]
    assert [dataset[i] for i in range(0, size, 3) for _ in range(2 if size == 4 else 1)] == expected


@pytest.mark.subset
def test_map_that_never_works_is_an_error():
    with pytest.raises(RuntimeError, match="every one of the 3"):
        MapDataset([1, 2, 3], lambda _: None)[0]


def test_map_of_an_iterable_leaves_none_out():
    stream = ToIterableDataset(list(range(6)), Fixed([5, 0, 2, 1]))
    mapped = MapDataset(stream, lambda x: 10 * x if x else None)
    assert isinstance(mapped, data.IterableDataset)
    assert list(mapped) == [50, 20, 10]


@pytest.mark.parametrize("make", [lambda: [1, 2, 3], lambda: ToIterableDataset([1, 2, 3], Fixed([0, 1, 2]))])
def test_a_lambda_travels_to_another_process(make):
    mapped = pickle.loads(pickle.dumps(MapDataset(make(), lambda x: x + 1)))
    assert [x for _, x in zip(range(3), mapped)] == [2, 3, 4]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_are_the_same_for_any_number_of_workers(num_workers):
    dataset = ToIterableDataset(list(range(100)), Fixed(range(50, 72)), shard_chunk_size=4)
    loader = data.DataLoader(dataset, batch_size=4, num_workers=num_workers, collate_fn=list)
    batches = list(loader)
    assert batches == [list(range(50 + i, min(54 + i, 72))) for i in range(0, 22, 4)]


def test_every_worker_yields_all_without_sharding():
    dataset = ToIterableDataset([0, 1, 2], Fixed([2, 1, 0]), shard_sampler=False)
    loader = data.DataLoader(dataset, batch_size=None, num_workers=2)
    assert sorted(loader) == [0, 0, 1, 1, 2, 2]


def test_to_iterable_takes_a_map_style_data_set_and_a_sampler():
    with pytest.raises(AssertionError):
        ToIterableDataset(ToIterableDataset([0], Fixed([0])), Fixed([0]))
    with pytest.raises(AssertionError):
        ToIterableDataset([0], [0])


sizes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=40)


@given(sizes, st.integers(1, 5))
def test_aspect_ratio_groups(hw, batch_size):
    stream = [{"height": h, "width": w, "index": i} for i, (h, w) in enumerate(hw)]
    batches = list(AspectRatioGroupedDataset(stream, batch_size))
    for batch in batches:
        assert len(batch) == batch_size
        assert len({item["width"] > item["height"] for item in batch}) == 1
    for wide in (True, False):
        group = [item["index"] for item in stream if (item["width"] > item["height"]) == wide]
        seen = [i["index"] for batch in batches for i in batch if (i["width"] > i["height"]) == wide]
        assert seen == group[: len(group) // batch_size * batch_size]


def test_an_iteration_that_is_left_in_the_middle_hands_its_batch_out_once():
    stream = [{"width": 2, "height": 1, "index": i} for i in range(4)]
    grouped = AspectRatioGroupedDataset(stream, 2)
    for _ in range(3):
        first = next(iter(grouped))
        assert [item["index"] for item in first] == [0, 1]
        assert all(len(bucket) < 2 for bucket in grouped._buckets)


@pytest.mark.subset
def test_each_iteration_over_groups_starts_anew():
    """Detectron2 puts what an iteration left over at the head of the next one's batches."""
    stream = [{"width": 2, "height": 1, "index": i} for i in range(5)]
    grouped = AspectRatioGroupedDataset(stream, 2)
    for _ in range(3):
        assert [[item["index"] for item in batch] for batch in grouped] == [[0, 1], [2, 3]]
    one, other = iter(grouped), iter(grouped)
    assert [item["index"] for batch in itertools.chain(one, other) for item in batch] == [0, 1, 2, 3] * 2
