"""Records of registered data sets, and the loaders that feed training and inference."""

import itertools
import logging
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2._subset import ADVICE, missing_names
from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng
from tabulate import tabulate
from torch.utils import data

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def filter_images_with_only_crowd_annotations(dataset_dicts: list[Record]) -> list[Record]:
    """Records that have at least one annotation which is not a crowd."""
    kept = [r for r in dataset_dicts if any(not a.get("iscrowd", 0) for a in r["annotations"])]
    logger.info(
        "Removed %d images without usable annotations (empty or only crowds); %d are left.",
        len(dataset_dicts) - len(kept),
        len(kept),
    )
    return kept


def print_instances_class_histogram(dataset_dicts: list[Record], class_names: Sequence[str]) -> None:
    """Log how many instances each class has, crowds left out.

    Raises:
        AssertionError: an annotation has a category id outside of the classes.
    """
    counts = np.zeros(len(class_names), dtype=np.int64)
    for record in dataset_dicts:
        ids = np.array([a["category_id"] for a in record["annotations"] if not a.get("iscrowd", 0)], dtype=np.int64)
        if len(ids) and not (ids.min() >= 0 and ids.max() < len(class_names)):
            wrong = sorted({int(i) for i in ids if not 0 <= i < len(class_names)})
            raise AssertionError(
                f"{record.get('file_name')} (image_id {record.get('image_id')}) has category ids {wrong}, "
                f"but there are {len(class_names)} classes: ids must be in [0, {len(class_names)})."
            )
        counts += np.bincount(ids, minlength=len(class_names))
    rows = [*zip(class_names, counts.tolist()), ("total", int(counts.sum()))]
    columns = min(3, len(rows))
    rows_per_column = -(-len(rows) // columns)
    cells = [rows[i::rows_per_column] for i in range(rows_per_column)]
    table = tabulate(
        [list(itertools.chain.from_iterable(line)) for line in cells],
        headers=["category", "#instances"] * columns,
        tablefmt="pipe",
        stralign="center",
    )
    logger.info("Instances of the %d classes:\n%s", len(class_names), table)


def get_detection_dataset_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> list[Record] | data.Dataset:
    """Load and join registered data sets.

    Args:
        names: registered name or names.
        filter_empty: leave out images without annotations or with crowds alone.
        min_keypoints, proposal_files: of keypoints and precomputed proposals, which are not here.
        check_consistency: check that all have the same classes, and log how many instances each has.

    Returns:
        The records; or, where the names stand for torch data sets, these, concatenated.

    Raises:
        KeyError: a name is not registered.
        AssertionError: a data set is empty, or nothing is left after filtering.
        NotImplementedError: keypoints or precomputed proposals are asked for.
    """
    if min_keypoints or proposal_files is not None:
        option = "min_keypoints (keypoints)" if min_keypoints else "proposal_files (precomputed proposals)"
        raise NotImplementedError(f"{option} {ADVICE}")
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise AssertionError("get_detection_dataset_dicts: no data set was named.")
    loaded = [DatasetCatalog.get(name) for name in names]
    if all(isinstance(dataset, data.Dataset) for dataset in loaded):
        return loaded[0] if len(loaded) == 1 else data.ConcatDataset(loaded)
    for name, dataset in zip(names, loaded):
        if not len(dataset):
            raise AssertionError(f"Data set {name!r} is empty.")

    records = list(itertools.chain.from_iterable(loaded))
    annotated = "annotations" in records[0]
    if filter_empty and annotated:
        records = filter_images_with_only_crowd_annotations(records)
    if not records:
        raise AssertionError(f"No image of {', '.join(names)} has usable annotations.")
    if check_consistency and annotated:
        with_classes = [name for name in names if MetadataCatalog.get(name).get("thing_classes") is not None]
        check_metadata_consistency("thing_classes", with_classes)
        class_names = MetadataCatalog.get(names[0]).get("thing_classes")
        if class_names is not None:
            print_instances_class_histogram(records, class_names)
    return records


def trivial_batch_collator(batch: list[Any]) -> list[Any]:
    """A batch as the list that it is."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Give each worker of a DataLoader its own random state, drawn from the loader's seed."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)


def build_batch_data_loader(
    dataset: data.Dataset,
    sampler: data.Sampler | None,
    total_batch_size: int | None,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    drop_last: bool = True,
    single_gpu_batch_size: int | None = None,
    prefetch_factor: int = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> Any:
    """Loader of training batches.

    Args:
        dataset: map-style, or iterable, which must split itself over ranks and workers.
        sampler: yields the indices of this rank; None for an iterable data set.
        total_batch_size: images over all ranks, a multiple of their number; None with
            `single_gpu_batch_size`.
        aspect_ratio_grouping: batches of images that are all wider than high, or all not. Items must have
            "width" and "height".
        num_workers: worker processes.
        collate_fn: from a list of items to a batch; the list itself by default.
        drop_last: leave out an incomplete last batch.
        single_gpu_batch_size: images of this rank, in place of `total_batch_size`.
        prefetch_factor, persistent_workers, pin_memory: as in torch's DataLoader.
        seed: of the loader's own generator, from which workers take theirs.
        kwargs: more arguments of torch's DataLoader.

    Returns:
        Iterable of batches of this rank.
    """
    batch_size = _batch_size_of_rank(total_batch_size, single_gpu_batch_size)
    if isinstance(dataset, data.IterableDataset):
        if sampler is not None:
            raise AssertionError("An iterable data set takes no sampler.")
    else:
        # Chunks as long as a batch: with any number of workers a batch holds what the sampler gives in a row.
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    if aspect_ratio_grouping and not drop_last:
        raise AssertionError("aspect_ratio_grouping leaves out incomplete batches; it needs drop_last=True.")
    options = {
        "num_workers": num_workers,
        "prefetch_factor": prefetch_factor if num_workers else None,
        "persistent_workers": persistent_workers and num_workers > 0,
        "pin_memory": pin_memory,
        "worker_init_fn": worker_init_reset_seed,
        "generator": None if seed is None else torch.Generator().manual_seed(seed),
        **kwargs,
    }
    if not aspect_ratio_grouping:
        return data.DataLoader(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            collate_fn=collate_fn or trivial_batch_collator,
            **options,
        )
    items = data.DataLoader(dataset, collate_fn=operator.itemgetter(0), **options)
    batches = AspectRatioGroupedDataset(items, batch_size)
    return batches if collate_fn is None else MapDataset(batches, collate_fn)


def _batch_size_of_rank(total_batch_size: int | None, single_gpu_batch_size: int | None) -> int:
    if single_gpu_batch_size:
        if total_batch_size:
            raise ValueError("Give total_batch_size or single_gpu_batch_size, not both.")
        return single_gpu_batch_size
    world_size = get_world_size()
    if not total_batch_size or total_batch_size < 0 or total_batch_size % world_size:
        raise AssertionError(
            f"total_batch_size must be a positive multiple of the number of processes ({world_size}), "
            f"got {total_batch_size}."
        )
    return total_batch_size // world_size


def _as_map_style(dataset: Any, mapper: Callable[[Any], Any] | None) -> data.Dataset:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MapDataset(dataset, mapper)


def build_detection_train_loader(
    dataset: list[Record] | data.Dataset,
    *,
    mapper: Callable[[Record], Any] | None,
    sampler: data.Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Endless loader of training batches.

    Args:
        dataset: records, or a torch data set of them.
        mapper: from a record to the input of a model, such as a `DatasetMapper`, or None.
        sampler: yields indices; `TrainingSampler` by default.
        total_batch_size, aspect_ratio_grouping, num_workers, collate_fn, kwargs: see
            `build_batch_data_loader`.

    Returns:
        Iterable of batches, lists of what `mapper` gives unless `collate_fn` says otherwise.
    """
    dataset = _as_map_style(dataset, mapper)
    if sampler is None and not isinstance(dataset, data.IterableDataset):
        sampler = TrainingSampler(len(dataset))
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def build_detection_test_loader(
    dataset: list[Record] | data.Dataset,
    *,
    mapper: Callable[[Record], Any] | None,
    sampler: data.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> data.DataLoader:
    """Loader that goes once through this rank's share of a data set, in order.

    Args:
        dataset: records, or a torch data set of them.
        mapper: from a record to the input of a model.
        sampler: yields the indices of this rank; `InferenceSampler` by default.
        batch_size: images of this rank; the last batch may be smaller.
        num_workers: worker processes.
        collate_fn: from a list of items to a batch; the list itself by default.
    """
    dataset = _as_map_style(dataset, mapper)
    if isinstance(dataset, data.IterableDataset):
        if sampler is not None:
            raise AssertionError("An iterable data set takes no sampler.")
    elif sampler is None:
        sampler = InferenceSampler(len(dataset))
    return data.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
    )


__getattr__ = missing_names(__name__, ["filter_images_with_few_keypoints", "load_proposals_into_dataset"])
