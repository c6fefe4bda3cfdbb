"""Starts processes: one, several on this machine, or those that torchrun has started."""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from detectron2.engine import launch
from detectron2.utils import comm

from loradet.errors import UserError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


def starts_processes(num_gpus: int, num_machines: int) -> bool:
    """Whether `run_distributed` starts processes of its own: several are asked for, and torchrun has started none."""
    return not _under_torchrun() and num_gpus * num_machines > 1


def _under_torchrun() -> bool:
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


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

    Under torchrun (`LOCAL_RANK` and its kin are set) this process is one of them. Otherwise `num_gpus` processes
    are started here; without CUDA they are CPU processes that talk over gloo.

    Args:
        dist_url: "auto": a rendezvous of its own for this run, which no other run on the host can collide with.

    Raises:
        ValueError: several machines without a common `dist_url`, or more processes than GPUs.
        SystemExit: a process that was started here ended with an exit status other than 0.
    """
    if _under_torchrun():
        _join_torchrun()
        try:
            main(*args)
        finally:
            torch.distributed.destroy_process_group()
        return
    if not starts_processes(num_gpus, num_machines):
        main(*args)
        return
    if dist_url == "auto" and num_machines > 1:
        raise UserError("Several machines need a common --dist-url, for example tcp://HOST_OF_RANK_0:29500.")
    if torch.cuda.is_available() and num_gpus > torch.cuda.device_count():
        raise UserError(f"--num-gpus {num_gpus}: this machine has {torch.cuda.device_count()}.")
    # The process that fails says why; that the others are ended then is no news.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="loradet_") as folder, _ForwardedInterrupts() as interrupts:
        # A file is a rendezvous that no two runs share; a free port may be taken before it is used.
        url = (Path(folder) / "rendezvous").as_uri() if dist_url == "auto" else dist_url
        try:
            launch(main, num_gpus, num_machines=num_machines, machine_rank=machine_rank, dist_url=url, args=args)
        except torch.multiprocessing.ProcessExitedException as ended:
            if ended.exit_code < 0:
                name = signal.Signals(-ended.exit_code).name
                print(f"error (process {ended.error_index}): ended by {name}.", file=sys.stderr)
            # Otherwise the process has said why; pass its exit status on.
            sys.exit(EXIT_INTERRUPTED if interrupts.received else max(ended.exit_code, EXIT_ERROR))
        if interrupts.received:
            sys.exit(EXIT_INTERRUPTED)


def _join_torchrun() -> None:
    local_rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", init_method="env://")
    comm.create_local_process_group(int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])))


class _ForwardedInterrupts:
    """While it is open, SIGINT to this process reaches the processes that it started, and leaves this one waiting.

    A second one, later than a second, ends them.
    """

    def __init__(self):
        self.received = False

    def __enter__(self) -> "_ForwardedInterrupts":
        self._previous = signal.signal(signal.SIGINT, self._forward)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _forward(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        now = time.monotonic()
        if not self.received:
            self.received, self._first = True, now
        for child in multiprocessing.active_children():
            child.terminate() if now - self._first > 1.0 else os.kill(child.pid, signal.SIGINT)
