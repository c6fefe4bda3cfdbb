"""Evaluations during training, and the checkpoint of the best one."""

import contextlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from loradet.checkpoint import Checkpointer
from loradet.errors import UserError
from loradet.run_folder import RunFolder
from loradet.training.checkpoints.batch_statistics import average_statistics
from loradet.training.hooks.stages import Stage

if TYPE_CHECKING:
    from loradet.training.trainer import Trainer

logger = logging.getLogger(__name__)


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
    trainer: "Trainer"

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
        self.trainer.check_losses()
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
