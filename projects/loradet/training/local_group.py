"""Detectron2's group of the processes on one machine, for a process group that others have made."""

import logging
import os
import socket
from itertools import groupby

import torch
from detectron2.utils import comm

logger = logging.getLogger(__name__)


def make_local_group() -> None:
    """Make the processes of this machine known to `detectron2.utils.comm`, where they are not. A collective call.

    Machines with different numbers of processes, or with processes that are not numbered machine by machine, have no
    such group: `comm.get_local_rank()` fails then, which nothing here needs.
    """
    if (known := _known()) is not None:
        if not known:
            logger.warning("Detectron2's group of this machine's processes is of an earlier process group.")
        return
    count = _processes_a_machine()
    if count is None:
        logger.info("Machines have different numbers of processes: Detectron2's local ranks are not known.")
        return
    comm.create_local_process_group(count)


def _known() -> bool | None:
    """None where there is no group, False where it is of a process group that is gone."""
    try:
        group = comm.get_local_process_group()
    except AssertionError:  # as it is documented
        return None
    try:
        return torch.distributed.get_rank(group) >= 0
    except ValueError:
        return False


def _processes_a_machine() -> int | None:
    """What all say of their machines, or None where it is not one number."""
    found = comm.all_gather((os.environ.get("LOCAL_WORLD_SIZE"), socket.gethostname()))
    said = {size for size, _ in found}
    if len(said) == 1 and (size := said.pop()) is not None and len(found) % int(size) == 0:
        return int(size)
    hosts = [(host, len(list(same))) for host, same in groupby(host for _, host in found)]
    sizes = {size for _, size in hosts}
    return sizes.pop() if len(sizes) == 1 and len({host for host, _ in hosts}) == len(hosts) else None
