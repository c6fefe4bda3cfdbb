"""Hooks around the training loop: evaluation with a best checkpoint, early stopping, interruption, progress."""

import contextlib
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any

from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from tqdm import tqdm

from loradet.checkpoint import Checkpointer
from loradet.errors import UserError
from loradet.run_folder import RunFolder
from loradet.training.batch_statistics import average_statistics
from loradet.training.signals import EXIT_STATUS, end_forked_process, raise_for

logger = logging.getLogger(__name__)


class Stage(IntEnum):
    """When a hook has its turn, within each of the events of training."""

    INTERRUPT = 0
    TIME = 1
    RATE = 2
    MEASURE = 3  # whatever puts a number: before the evaluation, which writes the iteration's line
    EVALUATE = 4
    OTHER = 5  # hooks that do not say
    WRITE = 6
    # After the evaluation, so that a checkpoint knows the best metric of its own iteration; after the iteration's line
    # is on disk, so that a run that is killed and goes on from there has it.
    SAVE = 7
    SHOW = 8
    UPLOAD = 9


def at_stage(stage: Stage, hook: HookBase) -> HookBase:
    """Detectron2's hook, which has no stage of its own."""
    hook.stage = stage
    return hook


def by_stage(hook: HookBase) -> Stage:
    """Key to order hooks by."""
    return getattr(hook, "stage", Stage.OTHER)


class EvaluateAndKeepBest(HookBase):
    """Evaluates every `period` iterations and after the last one, and keeps the best weights as `model_best.pth`.

    Args:
        period: iterations between evaluations; 0: after the last iteration only.
        evaluate: returns Detectron2's nested results ({"bbox": {"AP": percent}}); empty on other processes.
        checkpointer: writes `model_best`.
        metric: path of the number to watch, as "bbox/AP".
        mode: "max" or "min".
        patience: stop after so many evaluations in a row without a better one. None: never.
        min_delta: what counts as better than the best so far.

    Attributes:
        on_evaluated: called after each evaluation, when its numbers are in the event storage; before any checkpoint of
            this iteration, so that a run that is resumed there has what the call wrote.
    """

    stage = Stage.EVALUATE

    FILE = Path(RunFolder.BEST).stem

    def __init__(
        self,
        period: int,
        evaluate: Callable[[], dict],
        checkpointer: Checkpointer,
        *,
        metric: str,
        mode: str,
        patience: int | None = None,
        min_delta: float = 0.0,
    ):
        self.period = period
        self.evaluate = evaluate
        self.checkpointer = checkpointer
        self.metric = metric
        self.sign = 1.0 if mode == "max" else -1.0
        self.patience = patience
        self.min_delta = min_delta
        self.best: float | None = None
        self.best_iteration: int | None = None
        self.evaluations_without_gain = 0
        self.evaluated_at: int | None = None
        self.on_evaluated: Callable[[], None] | None = None

    def before_train(self) -> None:
        """Stop at once where the run that is resumed had stopped early."""
        self._stop_if_patience_is_over()

    def after_step(self) -> None:
        """Evaluate where it is due, or at the last iteration that a stop leaves."""
        next_iter = self.trainer.iter + 1
        if (self.period and next_iter % self.period == 0) or next_iter >= self.trainer.max_iter:
            self.run()

    def run(self) -> None:
        """Evaluate now, with the averages where there are any, and save if it is the best so far."""
        ema = self.trainer.ema
        average_statistics(self.trainer.module)
        with self.trainer.memory.left_out(), ema.applied() if ema is not None else contextlib.nullcontext():
            self._evaluate_and_save()
        self.evaluated_at = self.trainer.iter
        if self.on_evaluated is not None:
            self.on_evaluated()

    def _evaluate_and_save(self) -> None:
        results = self.evaluate()
        comm.synchronize()
        flat = flatten_results_dict(results or {})
        for name, value in flat.items():
            self.trainer.storage.put_scalar(name, float(value), smoothing_hint=False)
        watched = flat.get(self.metric)
        if watched is None and math.isnan(flat.get(self.metric.partition("-")[0], 0.0)):
            # Without any detection the results have no rows for single classes ("bbox/AP-ship").
            watched = math.nan
        # The main process alone has results; the others follow its decision.
        watched, names = comm.all_gather((watched, sorted(flat)))[0]
        if watched is None:
            raise UserError(
                f"train.best.metric={self.metric!r} is not among the results of the evaluation: {', '.join(names)}."
            )
        self._compare(float(watched))

    def _compare(self, value: float) -> None:
        # AP is NaN without annotations or detections: the first evaluation still leaves a file, any number beats it.
        if self.best is None or math.isnan(self.best):
            better = self.best is None or not math.isnan(value)
        else:
            better = self.sign * (value - self.best) > self.min_delta
        if better:
            logger.info("Best %s so far: %.4f at iteration %d.", self.metric, value, self.trainer.iter)
            self.best, self.best_iteration, self.evaluations_without_gain = value, self.trainer.iter, 0
            self.checkpointer.save(self.FILE, only_model=True, iteration=self.trainer.iter)
            return
        self.evaluations_without_gain += 1
        self._stop_if_patience_is_over()

    def _stop_if_patience_is_over(self) -> None:
        if self.patience is not None and self.evaluations_without_gain >= self.patience:
            self.trainer.stop(
                f"early stopping: {self.patience} evaluations without a better {self.metric} than {self.best:.4f}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Best value so far and when it was."""
        return {
            "best": self.best,
            "best_iteration": self.best_iteration,
            "evaluations_without_gain": self.evaluations_without_gain,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Counterpart of `state_dict`."""
        self.best = state["best"]
        self.best_iteration = state["best_iteration"]
        self.evaluations_without_gain = state["evaluations_without_gain"]


class KeepCheckpoints(HookBase):
    """Saves every `period` iterations and at the end, and deletes all but the last `max_to_keep`."""

    stage = Stage.SAVE

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
        stale = self.saved[: -self.max_to_keep] if self.max_to_keep else []
        self.saved = [n for n in self.saved if n not in stale]
        average_statistics(self.trainer.module)
        self.checkpointer.save(name, iteration=self.trainer.iter)
        if comm.is_main_process():
            for old in stale:
                (self.trainer.output_dir / f"{old}.pth").unlink(missing_ok=True)
        if self.on_save is not None:
            self.on_save()

    def state_dict(self) -> dict[str, Any]:
        """Names of the files that are kept."""
        return {"saved": self.saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Counterpart of `state_dict`."""
        self.saved = list(state["saved"])


class StopOnInterrupt(HookBase):
    """Turns SIGINT and SIGTERM into a stop after the running step.

    A second one, later than a second, ends the process at once.
    """

    stage = Stage.INTERRUPT

    def __init__(self):
        self._first: float | None = None
        self._previous: dict[int, Any] = {}
        self._process = os.getpid()
        self._terminated = False

    def before_train(self) -> None:
        """Take the signals over."""
        self._process = os.getpid()
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


class LogMemory(HookBase):
    """Puts the peak memory of training as `memory_mb`: of the device on CUDA, else of the process."""

    stage = Stage.MEASURE

    def __init__(self, period: int):
        self.period = period

    def after_step(self) -> None:
        """Put the scalar every `period` iterations."""
        if (self.trainer.iter + 1) % self.period == 0 or self.trainer.iter + 1 >= self.trainer.max_iter:
            self.trainer.storage.put_scalar("memory_mb", self.trainer.memory.peak_mb(), smoothing_hint=False)


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
    """A bar with loss and ETA on a terminal; nothing elsewhere (the log lines tell the same)."""

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
        if not self._bar.disable:
            self._bar.set_postfix(loss=f"{self.trainer.storage.latest()['total_loss'][0]:.3f}", refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        """Close it."""
        # An error before the first step leaves it unopened.
        if self._bar is not None:
            self._bar.close()
