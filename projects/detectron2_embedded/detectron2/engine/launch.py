"""Starts the processes of a run."""

import datetime
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = datetime.timedelta(minutes=30)
_LOCALHOST = "127.0.0.1"


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: datetime.timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call a function in every process of a run; each of them uses one GPU, or the CPU where there is none.

    With one process in all the call is made here. Otherwise the processes are spawned and talk over NCCL
    (GPUs) or gloo (CPU).

    Args:
        main_func: importable by name.
        num_gpus_per_machine: processes on each machine.
        num_machines: machines, on each of which `launch` is called.
        machine_rank: number of this machine.
        dist_url: "tcp://host:port" of machine 0, a URL of `init_process_group`, or "auto" (on one machine
            only): a free port that no other run can take.
        args: of `main_func`.
        timeout: of the collective operations.

    Raises:
        AssertionError: "auto" with several machines.
        torch.multiprocessing.ProcessRaisedException: a process failed; its traceback is in the message.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    store = None
    if dist_url in (None, "auto"):
        assert num_machines == 1, (
            f"dist_url={dist_url!r} works on one machine; for {num_machines} give tcp://HOST:PORT."
        )
        # The port is bound here for as long as the processes live, so that two runs cannot pick the same one.
        store = dist.TCPStore(_LOCALHOST, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        dist_url = f"store://{store.port}"
    elif num_machines > 1 and dist_url.startswith("file://"):
        logging.getLogger(__name__).warning(
            "dist_url=%s needs a file system that all machines share and that locks files; tcp:// is safer.",
            dist_url,
        )
    mp.start_processes(
        _worker,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
        daemon=False,
        start_method="spawn",
    )
    del store


def _worker(
    local_rank: int,
    main_func: Callable,
    world_size: int,
    num_gpus_per_machine: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    timeout: datetime.timedelta,
) -> None:
    has_gpu = torch.cuda.is_available()
    if has_gpu and num_gpus_per_machine > torch.cuda.device_count():
        raise ValueError(
            f"{num_gpus_per_machine} GPUs are asked for (--num-gpus), there are {torch.cuda.device_count()}."
        )
    _join(
        "nccl" if has_gpu else "gloo",
        dist_url,
        rank=machine_rank * num_gpus_per_machine + local_rank,
        world_size=world_size,
        timeout=timeout,
    )
    try:
        if has_gpu:
            torch.cuda.set_device(local_rank)
        comm.create_local_process_group(num_gpus_per_machine)
        # No process goes on before all have joined, so that a slow start is not taken for a hang.
        comm.synchronize()
        main_func(*args)
    except Exception:
        # Printed before the connections close: the others then fail too, and theirs may be the error that is raised.
        print(f"Process {dist.get_rank()} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        raise
    dist.destroy_process_group()


def _join(backend: str, dist_url: str, *, rank: int, world_size: int, timeout: datetime.timedelta) -> None:
    where: dict[str, Any] = {"init_method": dist_url}
    if dist_url.startswith("store://"):
        port = int(dist_url.removeprefix("store://"))
        where = {"store": dist.TCPStore(_LOCALHOST, port, world_size, is_master=False, timeout=timeout)}
    try:
        dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=timeout, **where)
    except Exception as error:
        raise RuntimeError(f"Process {rank} of {world_size} cannot join the others at {dist_url}: {error}") from error
