"""Peak memory of training, without that of evaluations in between, and the hook that logs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from detectron2.engine import HookBase

from loradet.evaluation.process_memory import process_peak_mb
from loradet.training.hooks.stages import Stage

if TYPE_CHECKING:
    from loradet.training.trainer import Trainer


class TrainingMemory:
    """Peak memory of what runs outside of `left_out` blocks.

    A CUDA device can forget a peak, so that blocks count for nothing there. A process on the CPU cannot: what it ever
    held counts.
    """

    def __init__(self):
        self._held = 0.0

    def peak_mb(self) -> float:
        """MiB."""
        return max(self._held, peak_memory_mb())

    def resume(self, peak_mb: float) -> None:
        """Count the peak (MiB) of an earlier part of the run too, which another process had."""
        self._held = max(self._held, peak_mb)

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """What runs in the block does not count on CUDA."""
        if not torch.cuda.is_initialized():
            yield
            return
        self._held = self.peak_mb()
        try:
            yield
        finally:
            torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float:
    """Peak memory in MiB: allocated on the current CUDA device, else this process's resident set."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    return process_peak_mb()


class LogMemory(HookBase):
    """Puts the peak memory of training as `memory_mb`: of the device on CUDA, else of the process."""

    stage = Stage.MEASURE
    trainer: "Trainer"

    def __init__(self, period: int):
        self.period = period

    def after_step(self) -> None:
        """Put the scalar every `period` iterations."""
        if (self.trainer.iter + 1) % self.period == 0 or self.trainer.iter + 1 >= self.trainer.max_iter:
            self.trainer.storage.put_scalar("memory_mb", self.trainer.memory.peak_mb(), smoothing_hint=False)
