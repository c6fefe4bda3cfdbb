"""Batches of indices of one group each."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import BatchSampler, Sampler


class GroupedBatchSampler(BatchSampler):
    """Batches of another sampler's indices, all of a batch from the same group, in the order they fill up.

    Indices that did not fill a batch wait for the next iteration.

    Args:
        sampler: yields indices into `group_ids`.
        group_ids: (N,) group of each item.
        batch_size: indices of a batch.

    Raises:
        ValueError: `sampler` is no Sampler.
        AssertionError: `group_ids` is not one row of numbers.
    """

    def __init__(self, sampler: Sampler, group_ids: Sequence[int] | np.ndarray, batch_size: int):
        if not isinstance(sampler, Sampler):
            raise ValueError(f"GroupedBatchSampler: sampler must be a torch.utils.data.Sampler, got {sampler!r}.")
        group_ids = np.asarray(group_ids)
        if group_ids.ndim != 1:
            raise AssertionError(f"GroupedBatchSampler: group_ids must have shape (N,), got {group_ids.shape}.")
        self.sampler = sampler
        self.group_ids = group_ids
        self.batch_size = batch_size
        self.buffer_per_group: dict[int, list[int]] = {group: [] for group in np.unique(group_ids).tolist()}

    def __iter__(self) -> Iterator[list[int]]:
        for index in self.sampler:
            waiting = self.buffer_per_group[self.group_ids[index]]
            waiting.append(index)
            if len(waiting) == self.batch_size:
                # Emptied before it is handed out: whoever takes it may never come back.
                batch = waiting[:]
                waiting.clear()
                yield batch

    def __len__(self) -> int:
        raise NotImplementedError("GroupedBatchSampler: the number of batches is known only after an iteration.")
