"""Signals that end a training: SIGINT (Ctrl-C) and SIGTERM; both let it save, each has an exit status."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}  # as shells have them


class Terminated(KeyboardInterrupt):
    """SIGTERM, where SIGINT would be KeyboardInterrupt."""


def exit_status(stop: KeyboardInterrupt) -> int:
    """Of a process that was ended by what was raised."""
    return EXIT_STATUS[signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT]


def raise_for(number: int) -> None:
    """Raise Terminated for SIGTERM, KeyboardInterrupt for SIGINT."""
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def end_forked_process(number: int) -> None:
    """What a handler does in a process that was forked with it: SIGTERM ends it, SIGINT is left to its parent."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def takes_signals() -> bool:
    """Whether this thread may take signals over; where a training runs in another one, they are its starter's."""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Inside the block SIGTERM raises Terminated, as SIGINT raises KeyboardInterrupt anyway."""
    if not takes_signals():
        yield
        return
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if os.getpid() != process:
            end_forked_process(number)
            return
        raise_for(number)

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)
