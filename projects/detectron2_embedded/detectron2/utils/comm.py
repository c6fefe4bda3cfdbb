"""Communication between the processes of a run; without a process group it is a run of one.

Values other than tensors travel over gloo, also where the default group is NCCL.
"""

import weakref
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

# Weak, since torch owns the groups until destroy_process_group: one that outlives it keeps its threads running into
# the interpreter's exit, where they abort the process.
_local_group: weakref.ref | None = None
_gloo_twins: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if _initialized() else 1


def get_rank() -> int:
    """Number of this process among all of the run."""
    return dist.get_rank() if _initialized() else 0


def is_main_process() -> bool:
    """Whether this process has rank 0, the one that writes files."""
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Make the group of this machine's processes known. Every process calls it once there is a default group.

    Args:
        num_workers_per_machine: processes on each machine; ranks are counted machine by machine.

    Raises:
        ValueError: the world size is not a multiple of it.
    """
    global _local_group
    world_size = get_world_size()
    if world_size % num_workers_per_machine:
        raise ValueError(f"{world_size} processes cannot be shared among machines of {num_workers_per_machine} each.")
    for first in range(0, world_size, num_workers_per_machine):
        ranks = range(first, first + num_workers_per_machine)
        # Every process takes part in making every group, also those it does not belong to.
        group = dist.new_group(list(ranks))
        if get_rank() in ranks:
            _local_group = weakref.ref(group)


def get_local_process_group() -> dist.ProcessGroup:
    """Group of the processes on this machine.

    Raises:
        AssertionError: there is none; `launch` makes it, other starters call `create_local_process_group`.
    """
    group = None if _local_group is None else _local_group()
    assert group is not None, (
        "The processes of this machine are not known: start with detectron2.engine.launch, or call "
        "detectron2.utils.comm.create_local_process_group(processes_per_machine) after init_process_group."
    )
    return group


def get_local_rank() -> int:
    """Number of this process among those on its machine."""
    return dist.get_rank(group=get_local_process_group()) if _initialized() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _initialized() else 1


def synchronize() -> None:
    """Wait until all processes have come here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        # Naming the device keeps NCCL from guessing it from the rank.
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


def _gloo_twin(default_group: dist.ProcessGroup) -> dist.ProcessGroup:
    if dist.get_backend(default_group) == dist.Backend.GLOO:
        return default_group
    known = _gloo_twins.get(default_group)
    twin = None if known is None else known()
    if twin is None:
        twin = dist.new_group(backend="gloo")
        _gloo_twins[default_group] = weakref.ref(twin)
    return twin


def _object_group(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    return _gloo_twin(dist.group.WORLD) if group is None else group


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Collect an object that can be pickled from every process.

    Args:
        data: this process's part.
        group: a gloo group, say; default: all processes.

    Returns:
        The parts by rank, on every process.
    """
    if get_world_size() == 1:
        return [data]
    group = _object_group(group)
    parts: list[Any] = [None] * dist.get_world_size(group)
    if len(parts) == 1:
        return [data]
    dist.all_gather_object(parts, data, group=group)
    return parts


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Collect an object that can be pickled from every process at one of them.

    Args:
        data: this process's part.
        dst: global rank of the process that gets them.
        group: a gloo group, say; default: all processes.

    Returns:
        The parts by rank on `dst`, an empty list elsewhere.
    """
    if get_world_size() == 1:
        return [data]
    group = _object_group(group)
    size = dist.get_world_size(group)
    if size == 1:
        return [data]
    if dist.get_rank() != dst:
        dist.gather_object(data, None, dst=dst, group=group)
        return []
    parts: list[Any] = [None] * size
    dist.gather_object(data, parts, dst=dst, group=group)
    return parts


def shared_random_seed() -> int:
    """A random number from numpy's generator, the same on all processes, which all must call this."""
    return all_gather(int(np.random.randint(2**31)))[0]


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Add up scalar tensors over processes, on rank 0.

    Args:
        input_dict: the same keys on all processes.
        average: divide by the number of processes.

    Returns:
        The sums or means on rank 0; values elsewhere mean nothing.
    """
    world_size = get_world_size()
    if world_size == 1:
        return input_dict
    with torch.no_grad():
        # Sorted, so that processes that filled their dicts in another order agree.
        names = sorted(input_dict)
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        if average and is_main_process():
            values = values / world_size
        return dict(zip(names, values))
