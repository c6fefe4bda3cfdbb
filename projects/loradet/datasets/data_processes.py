"""How the processes that read images begin and end."""

import ctypes
import gc
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from loradet.errors import UserError

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
        _make_room_for_sockets()
        _end_data_processes_at_exit()


def _make_room_for_sockets() -> None:
    """Keep the sockets that hand tensors on in `/tmp` where $TMPDIR is too long for the name of one.

    Before Python 3.14 a data process could not make its socket there, lost the batch, and training waited for ever.

    Raises:
        UserError: the program has chosen such a folder for them before.
    """
    if sys.platform == "win32" or _has_room(tempfile.gettempdir()):
        return
    former = tempfile.tempdir
    tempfile.tempdir = "/tmp"
    try:
        chosen = multiprocessing.util.get_temp_dir()  # made once for this process and those that it starts
    finally:
        tempfile.tempdir = former
    if not _has_room(str(Path(chosen).parent)):
        raise UserError(f"{chosen} is too long a name for sockets of data processes: set TMPDIR to a shorter folder.")


def _has_room(folder: str) -> bool:
    # A socket's name takes 104 bytes on macOS, 108 on Linux, the 0 behind it included.
    return len(os.fsencode(folder)) + len("/pymp-xxxxxxxx/listener-xxxxxxxx") < 104


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
