import io
import pickle

import pytest
from detectron2.data import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import data

items = st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5), max_size=3), max_size=8)


@given(items)
def test_a_serialized_list_reads_as_the_list(lst):
    dataset = DatasetFromList(lst)
    assert len(dataset) == len(lst)
    assert [dataset[i] for i in range(len(lst))] == lst
    assert [dataset[-i - 1] for i in range(len(lst))] == lst[::-1]
    with pytest.raises(IndexError):
        dataset[len(lst)]


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


def test_a_serialized_list_keeps_no_item_objects():
    records = [{"file_name": f"{i}.png", "annotations": [{"bbox": [0.0, 1.0, 2.0, 3.0]}] * 5} for i in range(100)]
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


def test_map_that_never_works_is_an_error():
    with pytest.raises(RuntimeError, match="every one of the 3"):
        MapDataset([1, 2, 3], lambda _: None)[0]


def test_map_of_an_iterable_leaves_none_out():
    stream = ToIterableDataset(list(range(6)), [5, 0, 2, 1])
    mapped = MapDataset(stream, lambda x: 10 * x if x else None)
    assert isinstance(mapped, data.IterableDataset)
    assert list(mapped) == [50, 20, 10]


@pytest.mark.parametrize("make", [lambda: [1, 2, 3], lambda: ToIterableDataset([1, 2, 3], [0, 1, 2])])
def test_a_lambda_travels_to_another_process(make):
    mapped = pickle.loads(pickle.dumps(MapDataset(make(), lambda x: x + 1)))
    assert [x for _, x in zip(range(3), mapped)] == [2, 3, 4]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_are_the_same_for_any_number_of_workers(num_workers):
    dataset = ToIterableDataset(list(range(100)), list(range(50, 72)), shard_chunk_size=4)
    loader = data.DataLoader(dataset, batch_size=4, num_workers=num_workers, collate_fn=list)
    batches = list(loader)
    assert batches == [list(range(50 + i, min(54 + i, 72))) for i in range(0, 22, 4)]


def test_every_worker_yields_all_without_sharding():
    dataset = ToIterableDataset([0, 1, 2], [2, 1, 0], shard_sampler=False)
    loader = data.DataLoader(dataset, batch_size=None, num_workers=2)
    assert sorted(loader) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(TypeError):
        ToIterableDataset(dataset, [0])


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
