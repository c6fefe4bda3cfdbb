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
from loradet.training.signals import EXIT_STATUS, sigterm_raises

EXIT_ERROR = 1


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
        with sigterm_raises():
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
            if ended.exit_code < 0 and interrupts.received is None:
                name = signal.Signals(-ended.exit_code).name
                print(f"error (process {ended.error_index}): ended by {name}.", file=sys.stderr)
            # Otherwise the process has said why; pass its exit status on.
            sys.exit(EXIT_STATUS.get(interrupts.received, max(ended.exit_code, EXIT_ERROR)))
        if interrupts.received is not None:
            sys.exit(EXIT_STATUS[interrupts.received])


def _join_torchrun() -> None:
    local_rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", init_method="env://")
    comm.create_local_process_group(int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])))


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
