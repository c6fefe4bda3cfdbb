"""A process that dies ends the run: each holds a connection to process 0, which a death closes, and all are told.

A kernel closes the connections of a process that is killed, and asks after a machine that says nothing; a process that
is merely busy, or waits for a GPU, keeps its own. Nothing is asked of the threads that train.
"""

import contextlib
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from detectron2.utils import comm

logger = logging.getLogger(__name__)

# What a process has to end by itself once another one has; collective operations on GPUs may wait for half an hour.
GRACE_S = 15.0
# After so long without an answer the machine of a process counts as gone: 10 + 4 · 5.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
_CONNECT_S = 30.0
_LEFT, _FAILED, _DIED = "left", "failed", "died"
_EXIT_ERROR = 1


class Peers:
    """Inside the block the end of any process of the run ends this one too; made by all processes together.

    The first process tells in one line which one has died without a word. One that leaves by an exception has said why.

    Args:
        host: where process 0 is reached.
    """

    def __init__(self, host: str):
        self._rank, self._count = comm.get_rank(), comm.get_world_size()
        self._name = f"pid {os.getpid()} on {socket.gethostname()}"
        self._closing, self._lock = threading.Event(), threading.Lock()
        self._others: dict[int, socket.socket] = {}
        self._is_over, self._told = False, threading.Event()
        self._listener = listener = _listen() if self._rank == 0 else None
        token = secrets.token_hex(8)
        here = (None, None) if listener is None else (listener.getsockname()[1], token)
        port, token = comm.all_gather(here)[0]
        if listener is not None:
            self._start(self._accept, listener, token)
        else:
            self._connect(host, port, token)

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        threading.Thread(target=work, args=args, daemon=True, name="loradet_peers").start()

    def _accept(self, listener: socket.socket, token: str) -> None:
        """Of process 0: take the connections of all others."""
        with listener:
            listener.settimeout(1.0)
            while not self._closing.is_set() and len(self._others) < self._count - 1:
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    connection.settimeout(_CONNECT_S)
                    self._greet(connection, token)

    def _greet(self, connection: socket.socket, token: str) -> None:
        lines = connection.makefile("r", encoding="utf-8")
        given, _, rest = lines.readline().rstrip("\n").partition(" ")
        rank, _, name = rest.partition(" ")
        if given != token or not rank.isdecimal():
            connection.close()
            return
        connection.settimeout(None)
        with self._lock:
            self._others[int(rank)] = connection
        self._start(self._read, lines, int(rank), name)

    def _connect(self, host: str, port: int, token: str) -> None:
        """Of the others: connect to process 0."""
        try:
            connection = socket.create_connection((host, port), timeout=_CONNECT_S)
            connection.settimeout(None)
            _keep_alive(connection)
            connection.sendall(f"{token} {self._rank} {self._name}\n".encode())
        except OSError as error:
            logger.warning(
                "Process 0 is not reached at %s:%d (%s): that a process dies is not seen.", host, port, error
            )
            return
        self._others[0] = connection
        self._start(self._read, connection.makefile("r", encoding="utf-8"), 0, f"on {host}")

    def _read(self, lines: TextIO, rank: int, name: str) -> None:
        """What another process says, to its end: how it has ended, or, from process 0, how a third one has."""
        how = _DIED
        with contextlib.suppress(OSError, ValueError):
            for line in lines:
                how, _, about = line.rstrip("\n").partition(" ")
                if about:  # of a third process
                    self._end(how, about, None)
        if how != _LEFT and not self._closing.is_set():
            self._end(how, f"process {rank} of {self._count} ({name})", rank)

    def _end(self, how: str, who: str, rank: int | None) -> None:
        """Another process has ended before its time: tell all, and end this one where it does not by itself."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
        if self._rank == 0:
            self._tell(f"{how} {who}")
        # Where the first process has died, the second one speaks.
        if how == _DIED and self._rank == (1 if rank == 0 else 0):
            what = f"{who} has died, killed or out of memory; the run's last checkpoint, if any, counts."
            print(f"error (process {self._rank}): {what}", file=sys.stderr, flush=True)
        self._told.set()
        if not self._closing.wait(GRACE_S):
            os._exit(_EXIT_ERROR)  # the thread that trains waits for an answer that will not come

    def _tell(self, line: str) -> None:
        with self._lock:
            others = list(self._others.values())
        for connection in others:
            with contextlib.suppress(OSError):
                connection.sendall(f"{line}\n".encode())

    def others_end(self, seconds: float) -> bool:
        """Whether another process has ended before its time; waits for the news of it."""
        return self._told.wait(seconds)

    def close_in_child(self) -> None:
        """In a forked process, as those that read data: connections that it kept would not close with this one."""
        for connection in filter(None, (self._listener, *self._others.values())):
            with contextlib.suppress(OSError):
                os.close(connection.detach())

    def __enter__(self) -> "Peers":
        global _current
        _current = self
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        global _current
        _current = None
        well = error is None or (isinstance(error, SystemExit) and error.code in (0, None))
        self._closing.set()
        self._tell(_LEFT if well else _FAILED)
        for connection in self._others.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


_current: Peers | None = None


def _close_in_child() -> None:
    if _current is not None:
        _current.close_in_child()


os.register_at_fork(after_in_child=_close_in_child)


def another_has_ended(seconds: float) -> bool:
    """Whether another process of this one's run has ended before its time, where this is watched."""
    began = time.monotonic()
    found = _current is not None and _current.others_end(seconds)
    if not found:
        time.sleep(max(0.0, seconds - (time.monotonic() - began)))
    return found


def _listen() -> socket.socket:
    if socket.has_dualstack_ipv6():
        listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        listener = socket.create_server(("", 0))
    _keep_alive(listener)  # which accepted connections inherit
    return listener


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
