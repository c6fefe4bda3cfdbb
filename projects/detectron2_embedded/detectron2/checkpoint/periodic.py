"""Checkpoints every so many iterations."""

from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer

__all__ = ["PeriodicCheckpointer"]


class PeriodicCheckpointer(_PeriodicCheckpointer):
    """fvcore's, except that a process that writes no files deletes none either.

    Args:
        checkpointer: its `save` is called on every process.
        period: iterations between checkpoints `<file_prefix>_<iteration>.pth`.
        max_iter: with it the last iteration saves `<file_prefix>_final.pth`.
        max_to_keep: delete all but so many of the periodic ones.
        file_prefix: beginning of the files' names.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        period: int,
        max_iter: int | None = None,
        max_to_keep: int | None = None,
        file_prefix: str = "model",
    ):
        super().__init__(checkpointer, period, max_iter, max_to_keep, file_prefix)
        if not checkpointer.save_to_disk:
            self.max_to_keep = None
