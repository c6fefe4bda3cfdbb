"""Starts processes, or joins those that torchrun, srun or somebody else has started."""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from detectron2.engine import launch

from loradet.errors import UserError
from loradet.training.launchers import SrunTask, StartedBy, srun_task, started_by
from loradet.training.local_group import make_local_group
from loradet.training.meeting import meet
from loradet.training.peers import Peers
from loradet.training.signals import EXIT_STATUS, sigterm_raises

EXIT_ERROR = 1


def run_distributed(
    main: Callable[..., None],
    *,
    num_gpus: int,
    num_machines: int,
    machine_rank: int,
    dist_url: str,
    args: tuple[Any, ...],
) -> None:
    """Call `main(*args)` in every process of the run.

    Where a process group is there already, it is used as it is and left alone. Under torchrun (`LOCAL_RANK` and its
    kin are set), and as one of several tasks of `srun`, this process is one of the run's and joins the others.
    Otherwise `num_gpus` processes are started here; without CUDA they are CPU processes that talk over gloo. An `srun`
    of one task a node starts them on every node.

    Args:
        dist_url: "auto": a rendezvous of its own for this run, which no other run on the host can collide with.

    Raises:
        UserError: several machines without a common `dist_url`, more processes than GPUs, other numbers than those of
            srun's tasks, or processes that do not come in time.
        SystemExit: a process that was started here ended with an exit status other than 0.
    """
    starter = started_by(num_gpus, num_machines)
    if starter is StartedBy.GROUP:
        make_local_group()
        main(*args)
    elif starter is StartedBy.NOBODY:
        with sigterm_raises():
            main(*args)
    elif starter is StartedBy.OURSELVES:
        machines = _Machines.of(num_machines, machine_rank, dist_url)
        _start_processes(main, num_gpus, machines, args)
    else:
        host = _join_torchrun() if starter is StartedBy.TORCHRUN else _join_srun(dist_url)
        _run_in_group(host, main, args)


def _run_in_group(host: str, main: Callable[..., None], args: tuple[Any, ...]) -> None:
    """Call `main` while the processes watch each other, then leave the group that was made for it."""
    with Peers(host):
        try:
            main(*args)
        finally:
            torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class _Machines:
    """How many there are, which of them this is, and where they meet."""

    count: int
    rank: int
    url: str

    @classmethod
    def of(cls, count: int, rank: int, url: str) -> "_Machines":
        """What was asked for, or what srun says of one task a node.

        Raises:
            UserError: there is no common place, or srun has another number of nodes.
        """
        task = srun_task()
        if task is not None and task.is_one_a_node and url == "auto":
            if count not in (1, task.count):
                raise UserError(f"--num-machines {count}: srun has started one task on each of {task.count} nodes.")
            return cls(task.count, task.rank, f"tcp://{task.address}:{task.port}")
        if url == "auto" and count > 1:
            raise UserError("Several machines need a common --dist-url, for example tcp://HOST_OF_RANK_0:29500.")
        return cls(count, rank, url)


def _start_processes(main: Callable[..., None], num_gpus: int, machines: _Machines, args: tuple[Any, ...]) -> None:
    if torch.cuda.is_available() and num_gpus > torch.cuda.device_count():
        raise UserError(f"--num-gpus {num_gpus}: this machine has {torch.cuda.device_count()}.")
    # The process that fails says why; that the others are ended then is no news.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="loradet_") as folder, _ForwardedInterrupts() as interrupts:
        try:
            if machines.count > 1:
                address, port = _host_and_port(machines.url)
                place = _Place(address, port, machines.rank * num_gpus, machines.count * num_gpus)
                torch.multiprocessing.spawn(_process_of_machine, (place, main, args), nprocs=num_gpus)
            else:
                # A file is a rendezvous that no two runs share; a free port may be taken before it is used.
                url = (Path(folder) / "rendezvous").as_uri() if machines.url == "auto" else machines.url
                launch(main, num_gpus, dist_url=url, args=args)
        except torch.multiprocessing.ProcessExitedException as ended:
            if ended.exit_code < 0 and interrupts.received is None:
                name = signal.Signals(-ended.exit_code).name
                number = machines.rank * num_gpus + ended.error_index
                print(f"error (process {number}): ended by {name}.", file=sys.stderr)
            # Otherwise the process has said why; pass its exit status on.
            sys.exit(EXIT_STATUS.get(interrupts.received, max(ended.exit_code, EXIT_ERROR)))
        if interrupts.received is not None:
            sys.exit(EXIT_STATUS[interrupts.received])


@dataclass(frozen=True)
class _Place:
    """Where processes of several machines meet, the number of this machine's first one, and of all."""

    address: str
    port: int
    first: int
    count: int


def _process_of_machine(local_rank: int, place: _Place, main: Callable[..., None], args: tuple[Any, ...]) -> None:
    """One of the processes that this machine has started."""
    rank = place.first + local_rank
    try:
        _join(place.address, place.port, rank=rank, count=place.count, device=local_rank, name="machines")
    except UserError as error:
        time.sleep(5.0 if local_rank else 0.0)  # those of a machine miss the same ones: the first one says it
        print(f"error (process {rank}): {error}", file=sys.stderr, flush=True)
        sys.exit(EXIT_ERROR)
    _run_in_group(place.address, main, args)


def _join_torchrun() -> str:
    """Meet the others; returns the machine of process 0."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group(_backend(), init_method="env://")
    make_local_group()
    return os.environ["MASTER_ADDR"]


def _join_srun(dist_url: str) -> str:
    """Meet the other tasks; returns the machine of the first one.

    Args:
        dist_url: tcp://HOST:PORT of the first task, or "auto".
    """
    task = srun_task()
    address, port = (task.address, task.port) if dist_url == "auto" else _host_and_port(dist_url)
    device = _device_of(task) if torch.cuda.is_available() else 0
    _join(address, port, rank=task.rank, count=task.count, device=device, name=task.name)
    return address


def _join(address: str, port: int, *, rank: int, count: int, device: int, name: str) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(device)
    store = meet(address, port, rank=rank, count=count, name=f"loradet/{name}")
    torch.distributed.init_process_group(_backend(), store=store, rank=rank, world_size=count)
    make_local_group()


def _host_and_port(url: str) -> tuple[str, int]:
    place = urllib.parse.urlsplit(url)
    try:
        port = place.port
    except ValueError:
        port = None
    if place.scheme != "tcp" or not place.hostname or not port:
        raise UserError(f"--dist-url {url}: several machines meet at tcp://HOST:PORT, HOST that of process 0.")
    return place.hostname, port


def _device_of(task: SrunTask) -> int:
    """Of a task that sees one GPU (`--gpus-per-task=1`) this one, else that of its number on the node."""
    seen, needed = torch.cuda.device_count(), max(task.per_node)
    if seen == 1:
        return 0
    if task.local_rank >= seen:
        raise UserError(f"srun has started up to {needed} tasks a node; task {task.rank} sees {seen} GPUs.")
    return task.local_rank


def _backend() -> str:
    return "nccl" if torch.cuda.is_available() else "gloo"


class _ForwardedInterrupts:
    """While it is open, SIGINT and SIGTERM to this process ask those that it started to save; this one waits for them.

    A second one, later than a second, ends them.

    Attributes:
        received: the first signal; None while there was none.
    """

    def __init__(self):
        self.received: int | None = None

    def __enter__(self) -> "_ForwardedInterrupts":
        self._previous = {number: signal.signal(number, self._forward) for number in EXIT_STATUS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous or signal.SIG_DFL)

    def _forward(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        now = time.monotonic()
        if self.received is None:
            self.received, self._first = number, now
        for child in multiprocessing.active_children():
            # SIGINT for both: SIGTERM would end a process that is not in its training loop yet without a word.
            child.terminate() if now - self._first > 1.0 else os.kill(child.pid, signal.SIGINT)
