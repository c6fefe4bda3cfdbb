"""Ctrl-C and SIGTERM end a training between two steps, saved."""

import logging
import os
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from loradet.training.hooks.stages import Stage
from loradet.training.signals import EXIT_STATUS, end_forked_process, raise_for, takes_signals

if TYPE_CHECKING:
    from loradet.training.trainer import Trainer

logger = logging.getLogger(__name__)


class StopOnInterrupt(HookBase):
    """Turns SIGINT and SIGTERM into a stop after the running step.

    A second one, later than a second, ends the process at once.
    """

    stage = Stage.INTERRUPT
    trainer: "Trainer"

    def __init__(self):
        self._first: float | None = None
        self._previous: dict[int, Any] = {}
        self._process = os.getpid()
        self._terminated = False

    def before_train(self) -> None:
        """Take the signals over, which only the main thread can; in another one they are left alone."""
        self._process = os.getpid()
        if not takes_signals():
            return
        self._previous = {number: signal.signal(number, self._handle) for number in EXIT_STATUS}

    def after_train(self) -> None:
        """Give the signals back."""
        for number, previous in self._previous.items():
            signal.signal(number, previous or signal.SIG_DFL)
        failed = sys.exc_info()[0] is not None
        if self._terminated and failed and self.trainer.stop_reason is None and comm.get_world_size() > 1:
            # Another process has failed, and whoever started both ends this one: it has nothing to say of its own.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if os.getpid() != self._process:
            end_forked_process(number)
            return
        now = time.monotonic()
        self._terminated = self._terminated or number == signal.SIGTERM
        if self._first is None:
            self._first = now
            self.trainer.interrupt(number)
            name = signal.Signals(number).name
            logger.warning("Interrupted by %s: finishing this step, then saving. Once more ends it at once.", name)
        elif now - self._first > 1.0:
            raise_for(number)
