"""The moments at which a process commits files: `rename`, `fsync` and `unlink`, counted, and a kill at one of them."""

import os
import pathlib
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = ("replace", "rename", "fsync", "unlink", "remove")
_TEMPORARY = re.compile(r"^\.(.+)\.[^.]{8}\.tmp$")


class Commits:
    """Counts the commits of this process, not of those that it forks.

    Args:
        trace: gets a line for each, as "replace model_0000003.pth", before it is made.
        kill_at: number of a commit, from 0, at which this process kills itself (SIGKILL); None: at none.
        when: "before" or "after" it.
    """

    def __init__(self, *, trace: Path | None = None, kill_at: int | None = None, when: str = "before"):
        self._trace = None if trace is None else os.open(trace, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self._kill_at = kill_at
        self._when = when
        self._count = 0
        self._process = os.getpid()

    def install(self) -> None:
        """Put the counting calls in the places of those of `os`."""
        for name in CALLS:
            counting = self._counting(name, getattr(os, name))
            setattr(os, name, counting)
            if (accessor := getattr(pathlib, "_NormalAccessor", None)) is not None and hasattr(accessor, name):
                setattr(accessor, name, staticmethod(counting))  # Python 3.10 has its own references

    def _counting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if os.getpid() != self._process:
                return call(*args, **kwargs)
            number, self._count = self._count, self._count + 1
            if self._trace is not None:
                os.write(self._trace, f"{name} {_file(args)}\n".encode())
            self._kill(number, "before")
            result = call(*args, **kwargs)
            self._kill(number, "after")
            return result

        return counted

    def _kill(self, number: int, when: str) -> None:
        if (number, when) == (self._kill_at, self._when):
            os.kill(os.getpid(), signal.SIGKILL)


def _file(args: tuple) -> str:
    """Name of the file that a commit is of, without what is random in it."""
    target = args[1] if len(args) > 1 else args[0]
    path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else os.fspath(target)
    name = Path(path).name
    found = _TEMPORARY.match(name)
    return found[1] if found else name
