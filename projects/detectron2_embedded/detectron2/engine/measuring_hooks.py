"""Hooks that look at, or straighten out, what training did: profiles, GPU memory, statistics of batch norms."""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from detectron2.utils.file_io import PathManager
from torch import nn

__all__ = ["PreciseBN", "TorchMemoryStats", "TorchProfiler"]

logger = logging.getLogger("detectron2.engine.hooks")

_MIB = 2**20


class TorchProfiler(HookBase):
    """Profiles chosen iterations with `torch.profiler`, with shapes, stacks, memory and operations.

    Args:
        enable_predicate: gets the trainer before each iteration and says whether to profile it, such as
            `lambda trainer: 10 < trainer.iter < 20`; the first iterations are slower than the rest.
        output_dir: with TensorBoard files are in its folder `log`, without they are
            `profiler-trace-iter<n>.json`, which chrome://tracing or Perfetto show.
        activities: as `torch.profiler.profile` takes them; default: the CPU, and CUDA if there is a device.
        save_tensorboard: write for TensorBoard's profiler plugin.
    """

    def __init__(
        self,
        enable_predicate: Callable[[Any], bool],
        output_dir: str,
        *,
        activities: Iterable[torch.profiler.ProfilerActivity] | None = None,
        save_tensorboard: bool = True,
    ):
        self._enable_predicate = enable_predicate
        self._output_dir = str(output_dir)
        self._activities = activities
        self._save_tensorboard = save_tensorboard
        self._profiler: torch.profiler.profile | None = None

    def before_step(self) -> None:
        """Begin, if this iteration is one of the chosen."""
        if not self._enable_predicate(self.trainer):
            return
        handler = None
        if self._save_tensorboard:
            folder = f"{self._output_dir}/log/profiler-tensorboard-iter{self.trainer.iter}"
            handler = torch.profiler.tensorboard_trace_handler(folder, f"worker{comm.get_rank()}")
        self._profiler = torch.profiler.profile(
            activities=self._activities,
            on_trace_ready=handler,
            record_shapes=True,
            profile_memory=True,
            with_stack=True,
            with_flops=True,
        )
        self._profiler.start()

    def after_step(self) -> None:
        """End, and write the file."""
        if self._profiler is None:
            return
        self._profiler.stop()
        if not self._save_tensorboard:
            self._write_trace(f"{self._output_dir}/profiler-trace-iter{self.trainer.iter}.json")
        self._profiler = None

    def after_train(self) -> None:
        """End a profile whose iteration failed."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def _write_trace(self, path: str) -> None:
        PathManager.mkdirs(self._output_dir)
        # torch writes to local files only.
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, "trace.json")
            self._profiler.export_chrome_trace(str(local))
            with PathManager.open(path, "w") as file:
                file.write(local.read_text())


class TorchMemoryStats(HookBase):
    """Logs what torch's allocator holds on the GPU; nothing where there is none.

    Args:
        period: iterations between lines; the last iteration has one too. Peaks are those since the line before.
        max_runs: lines; the last one comes with the allocator's own summary.
    """

    def __init__(self, period: int = 20, max_runs: int = 10):
        self._period = period
        self._max_runs = max_runs
        self._runs = 0

    def after_step(self) -> None:
        """Log where it is due."""
        next_iter = self.trainer.iter + 1
        due = next_iter % self._period == 0 or next_iter == self.trainer.max_iter
        if not due or self._runs >= self._max_runs or not torch.cuda.is_available():
            return
        self._runs += 1
        logger.info(
            "iter: %d  max_reserved_mem: %.0fMB  reserved_mem: %.0fMB  "
            "max_allocated_mem: %.0fMB  allocated_mem: %.0fMB",
            self.trainer.iter,
            torch.cuda.max_memory_reserved() / _MIB,
            torch.cuda.memory_reserved() / _MIB,
            torch.cuda.max_memory_allocated() / _MIB,
            torch.cuda.memory_allocated() / _MIB,
        )
        if self._runs == self._max_runs:
            logger.info("Memory of the GPU:\n%s", torch.cuda.memory_summary())
        torch.cuda.reset_peak_memory_stats()


class PreciseBN(HookBase):
    """Puts true means and variances over many batches into batch norms, in place of their moving averages.

    By fvcore's `update_bn_stats` (Wu and Johnson, Rethinking "Batch" in BatchNorm, arXiv:2105.07576, section
    3). Register it before the hooks that evaluate and save.

    Args:
        period: iterations between updates; 0: after the last iteration only. The last one is always followed by
            an update.
        model: its batch norms that are in training mode when an update runs are updated; a model that has none
            now is left alone.
        data_loader: its batches are given to the model; it is gone through once, update after update.
        num_iter: batches of an update.
    """

    def __init__(self, period: int, model: nn.Module, data_loader: Iterable, num_iter: int):
        from fvcore.nn.precise_bn import get_bn_modules

        self._model = model
        self._data_loader = data_loader
        self._num_iter = num_iter
        self._period = period
        self._batches: Iterator | None = None
        self._disabled = not get_bn_modules(model)
        if self._disabled:
            logger.info("PreciseBN does nothing: the model has no batch norm in training mode.")

    def after_step(self) -> None:
        """Update where it is due."""
        next_iter = self.trainer.iter + 1
        if next_iter == self.trainer.max_iter or (self._period > 0 and next_iter % self._period == 0):
            self.update_stats()

    def update_stats(self) -> None:
        """Update now."""
        if self._disabled:
            return
        from fvcore.nn.precise_bn import update_bn_stats

        if self._batches is None:
            self._batches = iter(self._data_loader)
        logger.info("PreciseBN: statistics over %d batches; they depend on which batches come.", self._num_iter)
        # What the model notes meanwhile is no part of training.
        with EventStorage():
            update_bn_stats(self._model, self._batches, self._num_iter)
