"""Hooks of the training loop: timing, learning rate, logging, checkpoints, evaluation."""

import datetime
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2._subset import missing_names
from detectron2.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from detectron2.checkpoint.safe_load import load_torch_file
from detectron2.engine.measuring_hooks import PreciseBN, TorchMemoryStats, TorchProfiler
from detectron2.engine.train_loop import HookBase
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.param_scheduler import ParamScheduler
from torch.optim.lr_scheduler import LRScheduler as _TorchLRScheduler

__all__ = [
    "BestCheckpointer",
    "CallbackHook",
    "EvalHook",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
    "PreciseBN",
    "TorchMemoryStats",
    "TorchProfiler",
]

logger = logging.getLogger(__name__)

Callback = Callable[[Any], None]


class CallbackHook(HookBase):
    """Calls functions, which get the trainer."""

    def __init__(
        self,
        *,
        before_train: Callback | None = None,
        after_train: Callback | None = None,
        before_step: Callback | None = None,
        after_step: Callback | None = None,
    ):
        self._callbacks = {
            "before_train": before_train,
            "after_train": after_train,
            "before_step": before_step,
            "after_step": after_step,
        }

    def _call(self, event: str) -> None:
        callback = self._callbacks.get(event)
        if callback is not None:
            callback(self.trainer)

    def before_train(self) -> None:
        """Call the function given for it."""
        self._call("before_train")

    def after_train(self) -> None:
        """Call the function given for it, then let go of all of them: they may hold the trainer."""
        self._call("after_train")
        self._callbacks = {}

    def before_step(self) -> None:
        """Call the function given for it."""
        self._call("before_step")

    def after_step(self) -> None:
        """Call the function given for it."""
        self._call("after_step")


class IterationTimer(HookBase):
    """Puts the seconds of each iteration as `time` into the event storage and logs a summary at the end.

    Args:
        warmup_iter: the first iterations, which are slower, are not counted.
    """

    def __init__(self, warmup_iter: int = 3):
        self._warmup_iter = warmup_iter
        self._step_start = self._counted_since = self._train_start = time.perf_counter()
        self._training_seconds = 0.0

    def before_train(self) -> None:
        """Start the clocks."""
        self._train_start = self._counted_since = time.perf_counter()
        self._training_seconds = 0.0

    def before_step(self) -> None:
        """Start the iteration's clock."""
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        """Put the iteration's seconds into the event storage."""
        now = time.perf_counter()
        done = self.trainer.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalar("time", now - self._step_start)
            self._training_seconds += now - self._step_start
        else:
            self._counted_since = now

    def after_train(self) -> None:
        """Log seconds an iteration, and how much went to hooks."""
        now = time.perf_counter()
        counted = self.trainer.iter - self.trainer.start_iter - self._warmup_iter + 1
        if counted <= 0:
            return
        hook_seconds = now - self._counted_since - self._training_seconds
        logger.info(
            "%d iterations in %s (%.4f s each); total %s, of which %s in hooks",
            counted,
            _duration(self._training_seconds),
            self._training_seconds / counted,
            _duration(now - self._train_start),
            _duration(max(hook_seconds, 0.0)),
        )


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class PeriodicWriter(HookBase):
    """Lets event writers write every `period` iterations and after the last one, then closes them."""

    def __init__(self, writers: Sequence[EventWriter], period: int = 20):
        for writer in writers:
            assert isinstance(writer, EventWriter), f"A writer is an EventWriter, not {type(writer).__name__}."
        self._writers = writers
        self._period = period

    def after_step(self) -> None:
        """Write where it is due."""
        next_iter = self.trainer.iter + 1
        if next_iter % self._period == 0 or next_iter == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        """Write what came after the last iteration, an evaluation say, and close."""
        for writer in self._writers:
            writer.write()
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """`detectron2.checkpoint.PeriodicCheckpointer` as a hook; `max_iter` is the trainer's."""

    def before_train(self) -> None:
        """Take over the trainer's `max_iter`."""
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        """Save where it is due."""
        self.step(self.trainer.iter)


class BestCheckpointer(HookBase):
    """Saves the best weights so far, by a metric in the event storage; put it behind the hook that evaluates.

    The value is kept in the file, so that a resumed run does not overwrite a better one.

    Args:
        eval_period: iterations between evaluations; 0: after training only.
        checkpointer: saves the file.
        val_metric: name of the metric, such as "bbox/AP50".
        mode: whether "max" or "min" is best.
        file_prefix: name of the file without extension.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ):
        assert mode in ("max", "min"), f'mode={mode!r}: expected "max" or "min".'
        self._period = eval_period
        self._checkpointer = checkpointer
        self._metric = val_metric
        self._sign = 1 if mode == "max" else -1
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def before_train(self) -> None:
        """In a resumed run read the best value so far from its file."""
        if not self.trainer.start_iter or not self._checkpointer.save_dir:
            return
        path = Path(self._checkpointer.save_dir, f"{self._file_prefix}.pth")
        if path.is_file():
            content = load_torch_file(str(path))
            if content.get("best_metric_name") == self._metric:
                self.best_metric, self.best_iter = content["best_metric"], content["iteration"]
                logger.info("Best %s so far: %.5f at iteration %s.", self._metric, self.best_metric, self.best_iter)

    def after_step(self) -> None:
        """Compare after an evaluation."""
        next_iter = self.trainer.iter + 1
        if self._period > 0 and next_iter % self._period == 0 and next_iter != self.trainer.max_iter:
            self._compare()

    def after_train(self) -> None:
        """Compare after the last evaluation, if training came to its end."""
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._compare()

    def _compare(self) -> None:
        latest = self.trainer.storage.latest().get(self._metric)
        if latest is None:
            logger.warning(
                "There is no %r in the event storage, so no best checkpoint is saved. Is evaluation on, and "
                "its hook registered before this one?",
                self._metric,
            )
            return
        value, iteration = latest
        if not math.isfinite(value):
            return
        if self.best_metric is not None and self._sign * value <= self._sign * self.best_metric:
            logger.info(
                "%s is %.5f; the best is still %.5f at iteration %d.",
                self._metric,
                value,
                self.best_metric,
                self.best_iter,
            )
            return
        self.best_metric, self.best_iter = value, iteration
        self._checkpointer.save(
            self._file_prefix, iteration=iteration, best_metric=value, best_metric_name=self._metric
        )
        logger.info("Best %s so far: %.5f at iteration %d.", self._metric, value, iteration)


class EvalHook(HookBase):
    """Calls an evaluation function periodically, on all processes, and stores its results as scalars.

    Args:
        eval_period: iterations between evaluations; 0: after training only.
        eval_function: returns a nested dict of numbers; names are joined by "/".
        eval_after_train: evaluate after the last iteration, if training came to its end.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], Mapping | None], eval_after_train: bool = True):
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def after_step(self) -> None:
        """Evaluate where it is due, except after the last iteration, which `after_train` covers."""
        next_iter = self.trainer.iter + 1
        if self._period > 0 and next_iter % self._period == 0 and next_iter != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        """Evaluate the trained model."""
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        # It likely holds the trainer, and with it the model and the data.
        del self._func

    def _do_eval(self) -> None:
        results = self._func()
        if results:
            assert isinstance(results, Mapping), (
                f"An evaluation function returns a dict of numbers, not {type(results).__name__}."
            )
            for name, value in _flatten(results):
                self.trainer.storage.put_scalar(name, value, smoothing_hint=False)
        # Some processes may be slower: the others should not wait inside the next step's gradients.
        comm.synchronize()


def _flatten(results: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    flat: list[tuple[str, float]] = []
    for key, value in results.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{name}/")
            continue
        try:
            flat.append((name, float(value)))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"An evaluation returns nested dicts of numbers, but {name!r} is {type(value).__name__}."
            ) from error
    return flat


class LRScheduler(HookBase):
    """Steps a learning rate schedule after each iteration and puts the rate as `lr` into the event storage.

    Args:
        optimizer: default: `trainer.optimizer`.
        scheduler: a torch scheduler, or a fvcore schedule, which becomes an `LRMultiplier` over the trainer's
            iterations; default: `trainer.scheduler`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: _TorchLRScheduler | ParamScheduler | None = None,
    ):
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._group = 0

    @property
    def scheduler(self) -> _TorchLRScheduler | ParamScheduler:
        """The schedule; a fvcore one is wrapped once training begins."""
        return self._scheduler or self.trainer.scheduler

    def before_train(self) -> None:
        """Wrap a fvcore schedule and choose the parameter group whose rate is shown."""
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer, self.scheduler, self.trainer.max_iter, last_iter=self.trainer.iter - 1
            )
        self._group = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: torch.optim.Optimizer) -> int:
        """The group whose rate is shown: the largest, or, with a group each, one with the commonest rate."""
        groups = optimizer.param_groups
        largest = max(len(group["params"]) for group in groups)
        if largest > 1:
            return next(i for i, group in enumerate(groups) if len(group["params"]) == largest)
        # A group for each parameter.
        rates = Counter(group["lr"] for group in groups)
        commonest = rates.most_common(1)[0][0]
        return next(i for i, group in enumerate(groups) if group["lr"] == commonest)

    def after_step(self) -> None:
        """Note the rate that this iteration used, and go on to the next."""
        rate = self._optimizer.param_groups[self._group]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The torch scheduler's."""
        return self.scheduler.state_dict() if isinstance(self.scheduler, _TorchLRScheduler) else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Counterpart of `state_dict`. A fvcore schedule needs none: it follows from the iteration."""
        if isinstance(self.scheduler, _TorchLRScheduler):
            self.scheduler.load_state_dict(state_dict)


__getattr__ = missing_names(__name__, ["AutogradProfiler"])
