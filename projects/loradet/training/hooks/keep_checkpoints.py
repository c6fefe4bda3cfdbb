"""Checkpoints while training: written in turn, and old ones removed."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from loradet.checkpoint import Checkpointer
from loradet.run_folder import RunFolder
from loradet.training.checkpoints.batch_statistics import average_statistics
from loradet.training.hooks.stages import Stage

if TYPE_CHECKING:
    from loradet.training.trainer import Trainer


class KeepCheckpoints(HookBase):
    """Saves every `period` iterations and at the end, and deletes all but the last `max_to_keep`."""

    stage = Stage.SAVE
    trainer: "Trainer"

    def __init__(
        self,
        checkpointer: Checkpointer,
        period: int,
        max_to_keep: int | None,
        on_save: Callable[[], None] | None = None,
    ):
        self.checkpointer = checkpointer
        self.period = period
        self.max_to_keep = max_to_keep
        self.on_save = on_save
        self.saved: list[str] = []
        self.stale: list[str] = []  # which the last save has replaced

    def after_step(self) -> None:
        """Save where it is due, also before a stop that was asked for."""
        next_iter = self.trainer.iter + 1
        due = self.period and next_iter % self.period == 0
        if due or next_iter >= self.trainer.max_iter or self.trainer.stop_reason is not None:
            last = next_iter >= self.trainer.max_iter
            folder = RunFolder(self.trainer.output_dir)
            self._save(Path(folder.FINAL if last else folder.checkpoint(self.trainer.iter)).stem)

    def _save(self, name: str) -> None:
        self.saved = [n for n in self.saved if n != name] + [name]
        self.stale = self.saved[: -self.max_to_keep] if self.max_to_keep else []
        self.saved = [n for n in self.saved if n not in self.stale]
        self.trainer.check_losses()
        average_statistics(self.trainer.module)
        self.checkpointer.save(name, iteration=self.trainer.iter)
        self._remove_stale()
        if self.on_save is not None:
            self.on_save()

    def _remove_stale(self) -> None:
        if comm.is_main_process():
            for old in self.stale:
                (self.trainer.output_dir / f"{old}.pth").unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Names of the files that are kept, and of those that are not any more."""
        return {"saved": self.saved, "stale": self.stale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Counterpart of `state_dict`; removes what a killed run was about to remove."""
        self.saved = list(state["saved"])
        # A checkpoint may be anybody's: nothing outside of the folder is removed.
        self.stale = [name for name in state.get("stale", []) if name not in self.saved and Path(name).name == name]
        self._remove_stale()
