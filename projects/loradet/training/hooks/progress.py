"""What is seen of a training while it runs: lines of metrics, and a bar on a terminal."""

import sys
from collections.abc import Sequence

from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from tqdm import tqdm

from loradet.event_storage import DeferredStorage
from loradet.training.hooks.stages import Stage


class WriteMetrics(PeriodicWriter):
    """`PeriodicWriter` that writes nothing where no step was run: what a resumed run restores is written already."""

    stage = Stage.WRITE

    def __init__(self, writers: Sequence[EventWriter], period: int):
        super().__init__(writers, period)
        self._opened = list(writers)
        self._stepped = False
        self._written_at: int | None = None
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether nothing is written any more."""
        return self._closed

    def write_evaluation(self) -> None:
        """Write this iteration now: at the next period the storage gives the latest value of a metric alone."""
        # A run that is resumed at its end evaluates after the loop.
        if self._closed:
            return
        self._written_at = self.trainer.iter
        for writer in self._opened:
            writer.write()

    def after_step(self) -> None:
        """Write where it is due."""
        self._stepped = True
        if self._written_at != self.trainer.iter:
            super().after_step()

    def after_train(self) -> None:
        """Write what is left, and close."""
        self._closed = True
        if self._stepped:
            super().after_train()
            return
        for writer in self._opened:
            writer.close()


class ProgressBar(HookBase):
    """A bar with loss and ETA on a terminal; nothing elsewhere (the log lines tell the same).

    It shows a loss where that is on the host already: a bar is nothing to wait for.
    """

    stage = Stage.SHOW

    def __init__(self):
        self._bar: tqdm | None = None

    def before_train(self) -> None:
        """Open the bar."""
        self._bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            unit="it",
            dynamic_ncols=True,
            disable=not (sys.stderr.isatty() and comm.is_main_process()),
        )

    def after_step(self) -> None:
        """Advance it."""
        assert self._bar is not None  # opened before the first step
        storage = self.trainer.storage
        waits = isinstance(storage, DeferredStorage) and not storage.is_read
        if not self._bar.disable and not waits:
            self._bar.set_postfix(loss=f"{storage.latest()['total_loss'][0]:.3f}", refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        """Close it."""
        # An error before the first step leaves it unopened.
        if self._bar is not None:
            self._bar.close()
