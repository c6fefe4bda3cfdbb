"""How processes that a launcher has started find each other, within a time that is said."""

import datetime
import os
import socket
import time

import torch
from torch.distributed import PrefixStore, Store, TCPStore

from loradet.errors import UserError

JOIN_TIMEOUT = "LORADET_JOIN_TIMEOUT"  # environment variable: seconds
_JOIN_TIMEOUT_S = 600.0
_POLL_S = 0.1
_GIVEN_UP = "given up"  # set by process 0, which holds the store, before it leaves
_FAREWELL_S = 2.0


def join_timeout() -> float:
    """Seconds after which a process that has not come is given up.

    Raises:
        UserError: the variable holds no positive number.
    """
    text = os.environ.get(JOIN_TIMEOUT) or str(_JOIN_TIMEOUT_S)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"{JOIN_TIMEOUT}={text}: expected seconds, more than 0.")
    return seconds


def meet(address: str, port: int, *, rank: int, count: int, name: str) -> Store:
    """Wait until all processes of a run are there; returns what they share.

    Args:
        address: of the machine with process 0, which listens at `port`.
        count: of all processes.
        name: of this run, which another one that comes to the same place has not.

    Raises:
        UserError: a process has not come in time, or the port is taken.
    """
    seconds = join_timeout()
    deadline = time.monotonic() + seconds
    timeout = datetime.timedelta(seconds=seconds)
    if rank > 0 and not _is_reachable(address, port, deadline):
        raise UserError(f"Process 0 of {count} is not at {address}:{port} within {seconds:g} s. {_ADVICE}")
    try:
        store = TCPStore(address, port, is_master=rank == 0, timeout=timeout, wait_for_workers=False)
    except torch.distributed.DistError as error:
        raise UserError(
            f"Port {port} of {socket.gethostname()}, where the processes meet, cannot be had ({_in_words(error)}): "
            "set MASTER_PORT to a free one, the same for all."
        ) from error
    store = PrefixStore(name, store)
    keys = [f"here/{number}" for number in range(count)]
    try:
        store.set(keys[rank], socket.gethostname())
        # Asked again and again, since torch's own wait warns twice of its end.
        while not store.check(keys):
            if time.monotonic() > deadline or store.check([_GIVEN_UP]):
                absent = [str(number) for number, key in enumerate(keys) if not store.check([key])]
                if rank == 0:  # whoever asks a store that is gone gets a page of C++ frames from torch
                    store.set(_GIVEN_UP, "")
                    time.sleep(_FAREWELL_S)
                few = ", ".join(absent[:8]) + (" …" if len(absent) > 8 else "")
                raise UserError(
                    f"{len(absent)} of {count} processes did not come ({few}) within {seconds:g} s. {_ADVICE}"
                )
            time.sleep(_POLL_S)
    except torch.distributed.DistError as error:
        raise UserError(f"Process 0 of {count} has left before all had come. {_ADVICE}") from error
    return store


def _is_reachable(address: str, port: int, deadline: float) -> bool:
    """Whether somebody listens there before the deadline; torch's own wait ends in pages of C++ frames."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            socket.create_connection((address, port), timeout=min(left, 5.0)).close()
            return True
        except OSError:
            time.sleep(min(left, _POLL_S))
    return False


def _in_words(error: Exception) -> str:
    return "it is taken" if "EADDRINUSE" in str(error) else str(error).partition("\n")[0].strip().rstrip(".")


_ADVICE = f"Has every node begun, and can it reach that machine and port? {JOIN_TIMEOUT} sets the time."
