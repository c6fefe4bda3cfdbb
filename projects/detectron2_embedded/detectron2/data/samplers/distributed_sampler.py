"""Samplers that split a stream of indices over ranks. Every rank shuffles alike, then takes its own share."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.utils import comm
from torch.utils.data import Sampler


class TrainingSampler(Sampler):
    """Endless stream, pass after shuffled pass over a data set; rank r takes every world_size-th from r on.

    Args:
        size: number of samples in the data set.
        shuffle: shuffle each pass.
        seed: of the shuffling, the same on every rank; None lets the ranks agree on a random one.

    Raises:
        TypeError: `size` is not an int.
        ValueError: `size` is not positive.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None):
        if not isinstance(size, int):
            raise TypeError(f"{type(self).__name__}: size must be an int, got {size!r}.")
        if size <= 0:
            raise ValueError(f"{type(self).__name__}: size must be positive, got {size}. Is the data set empty?")
        self._size = size
        self._shuffle = shuffle
        self._take_share(seed)

    def _take_share(self, seed: int | None) -> None:
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            indices = self._one_pass(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()

    def _one_pass(self, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG002
        return torch.arange(self._size)


class RandomSubsetTrainingSampler(TrainingSampler):
    """`TrainingSampler` over a random part of the data set that is drawn once.

    Args:
        size: number of samples in the data set.
        subset_ratio: part to keep, in (0, 1].
        shuffle: shuffle each pass.
        seed_shuffle: of the shuffling; None lets the ranks agree on a random one.
        seed_subset: of the choice of the part; None likewise.
    """

    def __init__(
        self,
        size: int,
        subset_ratio: float,
        shuffle: bool = True,
        seed_shuffle: int | None = None,
        seed_subset: int | None = None,
    ):
        super().__init__(size=size, shuffle=shuffle, seed=seed_shuffle)
        if not 0.0 < subset_ratio <= 1.0:
            raise AssertionError(f"subset_ratio must be in (0, 1], got {subset_ratio}.")
        self._size_subset = int(size * subset_ratio)
        if self._size_subset == 0:
            raise AssertionError(f"subset_ratio {subset_ratio} of {size} samples leaves none.")
        seed_subset = comm.shared_random_seed() if seed_subset is None else seed_subset
        generator = torch.Generator().manual_seed(int(seed_subset))
        self._indexes_subset = torch.randperm(size, generator=generator)[: self._size_subset]

    def _one_pass(self, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG002
        return self._indexes_subset


class RepeatFactorTrainingSampler(TrainingSampler):
    """Endless stream with sample i `repeat_factors[i]` times a pass, in expectation (arXiv:1908.03195).

    Args:
        repeat_factors: (N,) floats, at least 1 as a rule; the fractional part is drawn anew each pass.
        shuffle: shuffle each pass.
        seed: the same on every rank; None lets the ranks agree on a random one.
    """

    def __init__(self, repeat_factors: torch.Tensor, *, shuffle: bool = True, seed: int | None = None):
        self._shuffle = shuffle
        self._take_share(seed)
        self._int_part = torch.trunc(repeat_factors)
        self._frac_part = repeat_factors - self._int_part

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: list[dict[str, Any]], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """Repeat factors of images from how rare their rarest category is.

        A category c that appears in a fraction f(c) of the images has the factor max(1, repeat_thresh /
        f(c)), or the square root of that; an image takes the largest among its annotations, 1 without any.

        Args:
            dataset_dicts: records with "annotations", each with "category_id".
            repeat_thresh: frequency below which a category is repeated.
            sqrt: take the square root.

        Returns:
            (N,) float32.
        """
        categories = [{annotation["category_id"] for annotation in r["annotations"]} for r in dataset_dicts]
        images_with = Counter(itertools.chain.from_iterable(categories))
        factors = {}
        for category, count in images_with.items():
            ratio = repeat_thresh / (count / len(dataset_dicts))
            factors[category] = max(1.0, math.sqrt(ratio) if sqrt else ratio)
        per_image = [max((factors[c] for c in present), default=1.0) for present in categories]
        return torch.tensor(per_image, dtype=torch.float32)

    def _one_pass(self, generator: torch.Generator) -> torch.Tensor:
        draws = torch.rand(len(self._frac_part), generator=generator)
        repeats = self._int_part + (draws < self._frac_part).float()
        return torch.repeat_interleave(torch.arange(len(repeats)), repeats.long())


class InferenceSampler(Sampler):
    """Every index once over all ranks, in contiguous shares that differ by at most one, the first ones larger.

    Raises:
        AssertionError: `size` is not positive.
    """

    def __init__(self, size: int):
        if size <= 0:
            raise AssertionError(f"InferenceSampler: size must be positive, got {size}. Is the data set empty?")
        self._size = size
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()
        self._local_indices = self._get_local_indices(size, self._world_size, self._rank)

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        """The share of one rank, which may be empty."""
        share, rest = divmod(total_size, world_size)
        start = share * rank + min(rank, rest)
        return range(start, start + share + (rank < rest))

    def __iter__(self) -> Iterator[int]:
        yield from self._local_indices

    def __len__(self) -> int:
        return len(self._local_indices)
