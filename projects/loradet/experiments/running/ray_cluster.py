"""A Ray cluster: the connection to one, quiet, and what its nodes have. Ray comes by `pip install -e '.[ray]'`."""

import contextlib
import io
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loradet.errors import UserError

_CONNECT_S = 5.0
_OBJECT_STORE_BYTES = 100_000_000  # tasks pass next to nothing; Ray's own choice is a third of the memory
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and empty settings
_SETTINGS = 4  # the kind of frame that every HTTP/2 server begins by


@dataclass(frozen=True)
class Node:
    """A node of a cluster that is alive, and all that it has, in use or not."""

    id: str
    name: str
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.name}: {self.cpus:g} CPU, {self.gpus:g} GPU"


def imported_ray() -> Any:
    """The module `ray`, told what it should not do.

    Raises:
        ImportError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Else Ray warns of what it will do without GPUs one day; a run says itself that it has none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError("--executor ray needs Ray: pip install -e '.[ray]'.") from error
    return ray


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[Any]:
    """The module `ray`, connected to a cluster; one that this process is connected to already is used, and left so.

    Args:
        address: `HOST:PORT` of the head node, or "auto" for the cluster that `ray start` has started on this machine.
            None: that of RAY_ADDRESS, as inside `ray job submit`; without it, a cluster of this machine alone is
            started, and ended with the block.

    Raises:
        ImportError: Ray is not installed.
        UserError: the address is wrong, nothing answers there, or it is not for this version of Ray or this machine.
    """
    ray = imported_ray()
    if ray.is_initialized():
        yield ray
        return
    with _quiet():
        try:
            _connect(ray, address)
            yield ray
        finally:
            ray.shutdown()


def alive_nodes(ray: Any) -> list[Node]:
    """The nodes of the cluster that `ray` is connected to, by name."""
    nodes = [
        Node(n["NodeID"], n["NodeManagerHostname"], n["Resources"].get("CPU", 0.0), n["Resources"].get("GPU", 0.0))
        for n in ray.nodes()
        if n["Alive"]
    ]
    return sorted(nodes, key=lambda node: (node.name, node.id))


def _connect(ray: Any, address: str | None) -> None:
    named, where = f"--address {address}", address
    if address is None and (where := os.environ.get("RAY_ADDRESS")) is not None:
        named = f"RAY_ADDRESS={where}"
    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if where in (None, "", "local"):
        named, where = "Ray on this machine", "local"
        cores = len(os.sched_getaffinity(0))
        options |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's is 15, and what tasks start has it too
    elif where != "auto":
        _check_address(named, where)
    # Ray has SIGTERM end this process at once, without what runs being saved.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=where, **options)
    except Exception as error:  # Ray has no kind of its own for it
        raise UserError(f"{named}: {_first_sentences(str(error))}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _check_address(named: str, address: str) -> None:
    """Ray itself tries a wrong address for minutes."""
    form = re.fullmatch(r"(?P<host>[^\s:/]+|\[[0-9A-Fa-f:]+\]):(?P<port>\d{1,5})", address)
    if form is None or not 0 < int(form["port"]) < 65536:
        advice = "; run the command on a machine of the cluster, or by `ray job submit`" if "://" in address else ""
        raise UserError(f"{named}: expected HOST:PORT of the cluster's head node (6379 is Ray's usual port){advice}.")
    try:
        with socket.create_connection((form["host"].strip("[]"), int(form["port"])), timeout=_CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return
            connection.sendall(_PREFACE)
            answer = connection.recv(9)
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise UserError(f"{named}: no Ray cluster there ({reason}).") from error
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise UserError(f"{named}: what answers there is not a Ray cluster; expected HOST:PORT of its head node.")


def _first_sentences(text: str, most: int = 300) -> str:
    words = " ".join(text.split())
    if len(words) <= most:
        return words or "no reason given"
    return f"{words[:most].rpartition('. ')[0] or words[:most]}."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the cluster's own messages on standard output, dozens of lines for a node that is lost."""
    with contextlib.redirect_stdout(_WithoutRay(sys.stdout)):
        yield


class _WithoutRay(io.TextIOBase):
    """A stream that drops what Ray's thread of messages writes."""

    def __init__(self, stream: Any):
        self._stream = stream

    @property
    def closed(self) -> bool:
        """As a stream has it; Ray keeps this one, and asks when Python ends."""
        return self._stream.closed

    def write(self, text: str) -> int:
        """As a stream has it."""
        if threading.current_thread().name.startswith("ray_"):
            return len(text)
        return self._stream.write(text)

    def flush(self) -> None:
        """As a stream has it."""
        self._stream.flush()

    def fileno(self) -> int:
        """As a stream has it."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """As a stream has it."""
        return self._stream.isatty()
