"""Data sets built on others: a list in one buffer, a mapping function, batches of similar aspect ratio."""

import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch.utils import data

logger = logging.getLogger(__name__)


class _TorchSerializedList:
    """A list of pickled items in one uint8 tensor.

    Reading a Python object writes its reference count, so workers that fork would copy a plain list page by
    page; a buffer without Python objects stays shared. Torch moves it to shared memory when it is sent to a worker
    that is spawned.
    """

    def __init__(self, items: list[Any]):
        pickled = [np.frombuffer(pickle.dumps(item, protocol=-1), dtype=np.uint8) for item in items]
        ends = np.cumsum([len(piece) for piece in pickled], dtype=np.int64)
        self._ends = torch.from_numpy(ends)
        self._buffer = torch.from_numpy(np.concatenate(pickled) if pickled else np.empty(0, dtype=np.uint8))
        logger.info("Keeping %d records in one buffer of %.2f MiB.", len(items), len(self._buffer) / 2**20)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} items")
        index %= len(self)
        start = 0 if index == 0 else self._ends[index - 1].item()
        return pickle.loads(memoryview(self._buffer[start : self._ends[index].item()].numpy()))


# What `DatasetFromList` makes of a list with `serialize=True`.
_default_serialize: Callable[[list[Any]], Any] = _TorchSerializedList


@contextmanager
def set_default_dataset_from_list_serialize_method(new: Callable[[list[Any]], Any]) -> Iterator[None]:
    """Within the context, `DatasetFromList` keeps a list as what `new` makes of it (unless `serialize` says how)."""
    global _default_serialize
    before, _default_serialize = _default_serialize, new
    try:
        yield
    finally:
        _default_serialize = before


class DatasetFromList(data.Dataset):
    """A list as a map-style data set.

    Args:
        lst: the items.
        copy: hand out deep copies, so that what is done to an item stays outside. An item that was serialized
            is a copy anyway.
        serialize: keep the items in one buffer that worker processes share (True; see
            `set_default_dataset_from_list_serialize_method` for another default), as they are (False), or in
            what the given function makes of the list.

    Raises:
        TypeError: `serialize` is none of these.
    """

    def __init__(self, lst: list[Any], copy: bool = True, serialize: bool | Callable[[list[Any]], Any] = True):
        if not isinstance(serialize, bool) and not callable(serialize):
            raise TypeError(f"serialize must be a bool or a function of the list, got {serialize!r}.")
        self._copy = copy and not serialize
        if serialize is True:
            serialize = _default_serialize
        self._items = lst if serialize is False else serialize(lst)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        item = self._items[index]
        return deepcopy(item) if self._copy else item


class _PicklesAnyFunction:
    """Pickles `_map_func` with cloudpickle, so that a lambda reaches workers that are spawned."""

    _map_func: Callable[[Any], Any]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map_func": cloudpickle.dumps(self._map_func)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _map_func=pickle.loads(state["_map_func"]))


class _MapIterableDataset(_PicklesAnyFunction, data.IterableDataset):
    """`MapDataset` of an iterable data set: what maps to None is left out."""

    def __init__(self, dataset: Iterable[Any], map_func: Callable[[Any], Any]):
        self._dataset = dataset
        self._map_func = map_func

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Any]:
        for item in map(self._map_func, self._dataset):
            if item is not None:
                yield item


class MapDataset(_PicklesAnyFunction, data.Dataset):
    """Apply a function to every item of a data set.

    An item for which the function returns None is skipped: an iterable data set leaves it out, a map-style
    one draws another item in its place, among those that have worked.

    Args:
        dataset: map-style, or iterable (the result is iterable then).
        map_func: from an item to an item, or to None.
    """

    def __new__(cls, dataset: Any, map_func: Callable[[Any], Any]) -> Any:
        if isinstance(dataset, data.IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset: Any, map_func: Callable[[Any], Any]):
        self._dataset = dataset
        self._map_func = map_func
        self._rng = random.Random(42)
        self._candidates = set(range(len(dataset)))

    def __getnewargs__(self) -> tuple[Any, Any]:
        return self._dataset, None  # of these, __new__ looks at the data set alone

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        item = self._map_func(self._dataset[index])
        failures = 0
        while item is None:
            failures += 1
            self._candidates.discard(index)
            if not self._candidates:
                raise RuntimeError(f"The map function returned None for every one of the {len(self)} items.")
            if failures % 3 == 0:
                logger.warning("The map function returned None %d times in a row, last for item %d.", failures, index)
            index = self._rng.choice(tuple(self._candidates))
            item = self._map_func(self._dataset[index])
        self._candidates.add(index)
        return item


class ToIterableDataset(data.IterableDataset):
    """A map-style data set as an iterable one, in the order of a sampler.

    Args:
        dataset: map-style.
        sampler: yields indices; a torch Sampler.
        shard_sampler: split the sampler's stream over the workers of a DataLoader. Without, each worker
            yields the whole stream.
        shard_chunk_size: consecutive indices that go to one worker; with the batch size, a batch holds what
            the sampler gives in a row, for any number of workers.

    Raises:
        AssertionError: `dataset` is iterable already, or `sampler` is no Sampler.
    """

    def __init__(
        self,
        dataset: data.Dataset,
        sampler: data.Sampler,
        shard_sampler: bool = True,
        shard_chunk_size: int = 1,
    ):
        if isinstance(dataset, data.IterableDataset):
            raise AssertionError("ToIterableDataset takes a map-style data set; this one is iterable already.")
        if not isinstance(sampler, data.Sampler):
            raise AssertionError(f"ToIterableDataset: sampler must be a torch.utils.data.Sampler, got {sampler!r}.")
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        indices = _share_of_worker(self.sampler, self.shard_chunk_size) if self.shard_sampler else self.sampler
        for index in indices:
            yield self.dataset[index]


def _share_of_worker(stream: Iterable[int], chunk_size: int) -> Iterator[int]:
    """Chunks w, w + W, w + 2W ... of the stream in worker w of W; the whole stream outside of workers."""
    worker = data.get_worker_info()
    if worker is None:
        yield from stream
        return
    iterator = iter(stream)
    for turn in itertools.cycle(range(worker.num_workers)):
        chunk = list(itertools.islice(iterator, chunk_size))
        if not chunk:
            return
        if turn == worker.id:
            yield from chunk


class AspectRatioGroupedDataset(data.IterableDataset):
    """Batches whose images are all wider than high, or all not, which saves padding.

    Args:
        dataset: iterable of dicts with "width" and "height".
        batch_size: images of a batch; an incomplete batch at the end is not yielded. Each iteration starts anew,
            without what the one before left over.
    """

    def __init__(self, dataset: Iterable[dict[str, Any]], batch_size: int):
        self.dataset = dataset
        self.batch_size = batch_size
        self._buckets: tuple[list, list] = ([], [])

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        self._buckets = buckets = ([], [])
        for item in self.dataset:
            bucket = buckets[item["width"] <= item["height"]]
            bucket.append(item)
            if len(bucket) == self.batch_size:
                batch = bucket[:]
                bucket.clear()
                yield batch
