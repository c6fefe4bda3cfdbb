"""A file in a run's folder asks its training to save and leave, from wherever the folder can be written."""

import logging
from typing import TYPE_CHECKING

from detectron2.engine import HookBase
from detectron2.utils import comm

from loradet.run_folder import RunFolder
from loradet.training.hooks.stages import Stage

if TYPE_CHECKING:
    from loradet.training.trainer import Trainer

logger = logging.getLogger(__name__)


class StopOnRequest(HookBase):
    """Stops as Ctrl-C does where the file `stop` appears in the run's folder, which is then removed.

    A signal reaches processes of this machine alone; the folder is there for jobs of SLURM and Ray too.

    Args:
        period: iterations between looks, which the main process alone takes.
    """

    stage = Stage.WRITE
    trainer: "Trainer"

    def __init__(self, period: int):
        self.period = period

    def after_step(self) -> None:
        """Look every `period` iterations."""
        if (self.trainer.iter + 1) % self.period or not comm.is_main_process():
            return
        file = RunFolder(self.trainer.output_dir).stop
        try:
            file.unlink()
        except FileNotFoundError:
            return
        logger.warning("Asked to stop by %s: finishing the next step, then saving.", file)
        self.trainer.interrupt()
