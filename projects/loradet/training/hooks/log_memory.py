"""Peak memory as a number of each log line."""

from typing import TYPE_CHECKING

from detectron2.engine import HookBase

from loradet.training.hooks.stages import Stage

if TYPE_CHECKING:
    from loradet.training.trainer import Trainer


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
