"""Child processes that end with their parent."""

import ctypes
import multiprocessing
import os
import signal

_PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)


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
