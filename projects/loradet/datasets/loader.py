"""A training loader whose stream can be replayed: the same batches again, from any batch on, without reading images.

What a sample looks like depends on (seed, position in the stream) alone, never on which worker process made it.
"""

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from loradet.datasets.data_processes import set_up_workers
from loradet.datasets.image_cache import cache_images
from loradet.datasets.readers.records import Records, column
from loradet.datasets.seeding import seeded
from loradet.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailedSample:
    """Carries what went wrong with a sample out of a worker process, to be raised in one line by the main one."""

    message: str


class SampleError(UserError, RuntimeError):
    """A sample of the data set could not be read or mapped; the message names its file and image id."""


class NamedFailures:
    """A mapper that raises SampleError, naming file and image id, where the mapper inside fails."""

    def __init__(self, mapper: Callable[[dict], dict | None]):
        self.mapper = mapper

    def __call__(self, record: dict) -> dict | None:
        name = f"{record.get('file_name', '?')} (image id {record.get('image_id', '?')})"
        try:
            return self.mapper(record)
        except SampleError:
            raise
        except Exception as error:
            raise SampleError(
                f"Sample {name} failed: {type(error).__name__}: {str(error).rstrip('.')}. "
                "`loradet data check` lists every image that cannot be read."
            ) from error


def innermost(mapper: Callable[[dict], dict | None]) -> Callable[[dict], dict | None]:
    """The mapper inside all `NamedFailures`."""
    while isinstance(mapper, NamedFailures):
        mapper = mapper.mapper
    return mapper


class BatchStream(Sampler):
    """Batches of (position, index) for one rank: index into the data set, position of the draw in the whole stream.

    Args:
        sampler: gives this rank's indices; must give the same ones each time that it is iterated.
        batch_size: samples a batch.
        groups: a group number for each index of the data set; a batch holds one group only. None: no grouping.
        start: how many batches to leave out in front. Only indices are drawn for them.
    """

    def __init__(self, sampler: Iterable[int], batch_size: int, groups: Sequence[int] | None = None, start: int = 0):
        self.sampler = sampler
        self.batch_size = batch_size
        self.groups = groups
        self.start = start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, world_size = comm.get_rank(), comm.get_world_size()
        waiting: dict[int, list[tuple[int, int]]] = {}
        batches = 0
        for draw, index in enumerate(self.sampler):
            batch = waiting.setdefault(self.groups[index] if self.groups is not None else 0, [])
            batch.append((draw * world_size + rank, int(index)))
            if len(batch) == self.batch_size:
                batches += 1
                if batches > self.start:
                    yield list(batch)
                batch.clear()


class SeededMapDataset(Dataset):
    """Map-style view on `dataset` for the (position, index) pairs of `BatchStream`."""

    MAX_REDRAWS = 20

    def __init__(self, dataset: Sequence[dict], mapper: Callable[[dict], dict | None], seed: int):
        self.dataset = dataset
        self.mapper = NamedFailures(mapper)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict | FailedSample:
        position, index = key
        with seeded(self.seed, position):
            for _ in range(self.MAX_REDRAWS):
                record = copy.deepcopy(self.dataset[index])
                try:
                    sample = self.mapper(record)
                except SampleError as error:
                    return FailedSample(str(error))
                if sample is not None:
                    return sample
                last = record.get("file_name", "?")
                index = int(np.random.randint(len(self.dataset)))
        return FailedSample(f"The mapper dropped {self.MAX_REDRAWS} samples in a row, the last of them {last}.")


class TrainLoader:
    """Endless iterable of batches (lists of mapped dicts) for this rank; see `build_train_loader`.

    Attributes:
        pin_memory: whether batches come in memory that CUDA copies from while the host goes on; False at first.
    """

    def __init__(self, dataset: SeededMapDataset, stream: BatchStream, num_workers: int, prefetch_factor: int):
        self.dataset = dataset
        self.stream = stream
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.pin_memory = False

    @property
    def num_images(self) -> int:
        """Images of the data set, over all ranks: the length of an epoch."""
        return len(self.dataset)

    @property
    def records(self) -> Sequence[dict[str, Any]]:
        """Detectron2's dicts of the data set."""
        return self.dataset.dataset

    @property
    def mapper(self) -> Callable[[dict], dict | None]:
        """Makes a sample of a record; another one is used from the next iteration on."""
        return innermost(self.dataset.mapper)

    @mapper.setter
    def mapper(self, mapper: Callable[[dict], dict | None]) -> None:
        self.dataset.mapper = NamedFailures(mapper)

    def resume_at(self, batch: int) -> None:
        """Let the next iteration begin after this rank's first `batch` batches."""
        self.stream.start = batch

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.stream,
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            collate_fn=_keep_list,
            pin_memory=self.pin_memory,
            # A generator of its own: starting the workers must not move the generator that dropout draws from.
            generator=torch.Generator().manual_seed(self.dataset.seed),
        )
        set_up_workers(loader)
        with _one_opencv_thread():
            batches = iter(loader)
        for batch in batches:
            for sample in batch:
                if isinstance(sample, FailedSample):
                    raise SampleError(sample.message)
            yield batch


def build_train_loader(
    dataset: Sequence[dict],
    *,
    mapper: Callable[[dict], dict | None],
    total_batch_size: int,
    sampler: Iterable[int] | None = None,
    num_workers: int = 2,
    prefetch_factor: int = 4,
    aspect_ratio_grouping: bool = True,
    seed: int = 0,
    cache: str | None = None,
    cache_gb: float = 4.0,
) -> TrainLoader:
    """Training loader over Detectron2 dataset dicts whose stream a resumed run replays.

    Args:
        dataset: dataset dicts with `file_name`, `image_id` and, for grouping, `width` and `height`.
        mapper: makes a model input of a dataset dict; None means «draw another image».
        total_batch_size: images a batch over all ranks.
        sampler: this rank's indices, endless, the same each time it is iterated. Default: shuffled `TrainingSampler`.
        num_workers: data processes a rank.
        prefetch_factor: batches that each data process keeps ready.
        aspect_ratio_grouping: portrait and landscape images never share a batch.
        seed: of the order and of the augmentation.
        cache: "memory" keeps each image once it was read, see `loradet.datasets.image_cache`. None: it is read anew.
        cache_gb: the most that these may take, in 10^9 bytes.

    Raises:
        ValueError: the data set is empty, or the batch cannot be divided over the ranks.
        UserError: the images are too many for the cache, or the mapper has none.
    """
    world_size = comm.get_world_size()
    if not len(dataset):
        raise ValueError("The training set has no image (are all of them filtered out?).")
    if total_batch_size < world_size or total_batch_size % world_size:
        raise ValueError(f"total_batch_size={total_batch_size} cannot be divided over {world_size} processes.")
    if cache is not None:
        mapper = mapper.mapper if isinstance(mapper, NamedFailures) else mapper  # the data set names them anyhow
        mapper = cache_images(mapper, dataset, where=cache, max_gb=cache_gb)
    groups = None
    if aspect_ratio_grouping:
        groups = np.greater(column(dataset, "width"), column(dataset, "height")).astype(np.int8)
    if sampler is None:
        sampler = TrainingSampler(len(dataset), seed=seed)
    # One numpy buffer instead of a list of dicts: worker processes then share its pages.
    records = dataset if isinstance(dataset, Records) else DatasetFromList(list(dataset), copy=False)
    if getattr(innermost(mapper), "mosaic", None) is not None:
        mapper = innermost(mapper).with_records(records)  # the data set names what fails anyhow
    return TrainLoader(
        SeededMapDataset(records, mapper, seed),
        BatchStream(sampler, total_batch_size // world_size, groups),
        num_workers,
        prefetch_factor,
    )


def _keep_list(batch: list) -> list:
    return batch


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Data processes that are forked inside keep to one thread of OpenCV's.

    It has to be said before the fork: afterwards OpenCV would wait for threads that the fork has not copied.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
