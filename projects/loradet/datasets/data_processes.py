"""How the processes that read images begin and end."""

import ctypes
import gc
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import time

import torch
from torch.utils.data import DataLoader

_PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)
_END_S = 0.5  # for processes that heed SIGTERM


def set_up_workers(loader: DataLoader) -> None:
    """Let a loader's data processes begin as this project's do, where it does not say how: `init_worker`, and forked.

    Linux forked them by default up to Python 3.13. Those of "forkserver", the default since, import the program again:
    they start in seconds, share no page of the records, and a script without `if __name__ == "__main__"` fails.
    """
    if loader.worker_init_fn is None:
        loader.worker_init_fn = init_worker
    forks = sys.platform == "linux" and multiprocessing.get_start_method(allow_none=True) != "spawn"
    if forks and loader.num_workers and loader.multiprocessing_context is None:
        loader.multiprocessing_context = "fork"
    if loader.num_workers:
        _end_data_processes_at_exit()


def init_worker(worker_id: int) -> None:  # noqa: ARG001
    """What a data process begins with, as `worker_init_fn`: it ends when its parent says so or is gone, not before."""
    # Ctrl-C reaches the whole process group, and what ends a job all its processes: the main one saves first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    # There are many such processes: one core each.
    torch.set_num_threads(1)
    # The collector writes to every object that it looks at, and a page that is written to is no longer shared.
    gc.freeze()


def end_with_parent() -> None:
    """Let this process be killed when its parent ends, however that happens; call it in a forked child.

    The kernel counts the parent's thread that has forked. Without Linux nothing is done.
    """
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return
    prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # gone already
        os.kill(os.getpid(), signal.SIGKILL)


_registered: set[int] = set()  # ids of processes: a forked one inherits the set, not the finalizers


def _end_data_processes_at_exit() -> None:
    """Kill data processes that a script left at work when it ends.

    Python sends SIGTERM to daemonic children then and waits for each, without limit: those above ignore SIGTERM.
    """
    if os.getpid() not in _registered:
        _registered.add(os.getpid())
        multiprocessing.util.Finalize(None, _end_data_processes, exitpriority=0)


def _end_data_processes() -> None:
    left = [process for process in multiprocessing.active_children() if process.daemon]
    for process in left:
        process.terminate()
    until = time.monotonic() + _END_S
    for process in left:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
