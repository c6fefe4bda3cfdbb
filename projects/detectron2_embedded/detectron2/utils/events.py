"""Numbers that training produces: where they are kept (`EventStorage`) and the writers that put them out."""

import datetime
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from detectron2.utils.file_io import PathManager
from fvcore.common.history_buffer import HistoryBuffer

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
    "has_event_storage",
]

_open_storages: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """The innermost `with EventStorage(...)` that this call lies in.

    Raises:
        AssertionError: there is none.
    """
    assert _open_storages, "No EventStorage is open: call this inside `with EventStorage():` (a trainer opens one)."
    return _open_storages[-1]


def has_event_storage() -> bool:
    """Whether this call lies inside a `with EventStorage(...)`."""
    return bool(_open_storages)


class EventStorage:
    """Keeps scalars with their iterations; images and histograms wait here until a writer takes them.

    Args:
        start_iter: number of the first iteration.
    """

    def __init__(self, start_iter: int = 0):
        self._iter = start_iter
        self._histories: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._prefix = ""
        self._vis_data: list[tuple[str, Any, int]] = []
        self._histograms: list[dict[str, Any]] = []
        self._late: list[tuple[str, Callable[[], None]]] = []

    def __enter__(self) -> "EventStorage":
        _open_storages.append(self)
        return self

    def __exit__(self, *_exception: object) -> None:
        assert _open_storages[-1] is self, "EventStorages were closed in another order than they were opened."
        _open_storages.pop()

    @property
    def iter(self) -> int:
        """Number of the running iteration; the trainer sets it."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)

    @property
    def iteration(self) -> int:
        """Same as `iter`."""
        return self._iter

    def step(self) -> None:
        """Go on to the next iteration. A trainer calls it, or sets `iter`."""
        self._iter += 1

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put `name/` before every name that is added inside."""
        outer, self._prefix = self._prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = outer

    def put_scalar(
        self, name: str, value: float | torch.Tensor, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Add a number.

        Args:
            name: `a/b` groups names in TensorBoard.
            value: anything that `float` takes.
            smoothing_hint: writers may show a median over iterations (losses) or not (learning rates, AP).
            cur_iter: iteration it belongs to; default: the running one.

        Raises:
            AssertionError: the name was added before with another `smoothing_hint`.
        """
        name = self._prefix + name
        value = float(value)
        iteration = self._iter if cur_iter is None else cur_iter
        known_hint = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert known_hint == smoothing_hint, (
            f"Scalar {name!r} was put with smoothing_hint={known_hint} before, now with {smoothing_hint}."
        )
        self._histories[name].update(value, iteration)
        self._latest[name] = (value, iteration)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: float) -> None:
        """Add several numbers, given as keyword arguments; see `put_scalar`."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def _put_later(self, put: Callable[[], None]) -> None:
        """Note numbers that are still being worked out: `put` adds them, and is called before anything is read."""
        self._late.append((self._prefix, put))

    def _catch_up(self) -> None:
        outer = self._prefix
        try:
            while self._late:
                self._prefix, put = self._late.pop(0)
                put()
        finally:
            self._prefix = outer

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Add an RGB image (3, H, W), uint8 in [0, 255] or float in [0, 1], tensor or array."""
        self._vis_data.append((img_name, img_tensor, self._iter))

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Add the histogram of a tensor's values, of any shape."""
        values = hist_tensor.detach().float()
        low, high = values.min().item(), values.max().item()
        counts = torch.histc(values, bins=bins)
        edges = torch.linspace(low, high, steps=bins + 1)
        self._histograms.append(
            {
                "tag": hist_name,
                "min": low,
                "max": high,
                "num": values.numel(),
                "sum": values.sum().item(),
                "sum_squares": values.square().sum().item(),
                "bucket_limits": edges[1:].tolist(),
                "bucket_counts": counts.tolist(),
                "global_step": self._iter,
            }
        )

    def history(self, name: str) -> HistoryBuffer:
        """All values of a scalar.

        Raises:
            KeyError: no such scalar was put.
        """
        self._catch_up()
        if name not in self._histories:
            raise KeyError(f"No scalar {name!r} was put; there are: {', '.join(sorted(self._histories)) or 'none'}.")
        return self._histories[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """All values of all scalars, by name."""
        self._catch_up()
        return self._histories

    def latest(self) -> dict[str, tuple[float, int]]:
        """Latest value and its iteration, by name."""
        self._catch_up()
        return self._latest

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values a scalar has in the `window_size` iterations up to its latest one."""
        values = self.history(name).values()
        first_iter = values[-1][1] - window_size
        count = 0
        for _, iteration in reversed(values):
            if iteration <= first_iter:
                break
            count += 1
        return count

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Like `latest`, with the median over `window_size` iterations where the hint asks for smoothing."""
        return {
            name: (self._smoothed(name, window_size) if self._smoothing_hints[name] else value, iteration)
            for name, (value, iteration) in self.latest().items()
        }

    def _smoothed(self, name: str, window_size: int) -> float:
        return float(self._histories[name].median(self.count_samples(name, window_size)))

    def smoothing_hints(self) -> dict[str, bool]:
        """The `smoothing_hint` of every scalar."""
        self._catch_up()
        return self._smoothing_hints

    def clear_images(self) -> None:
        """Forget the images; the writer that wrote them calls it."""
        self._vis_data = []

    def clear_histograms(self) -> None:
        """Forget the histograms; the writer that wrote them calls it."""
        self._histograms = []


class EventWriter:
    """Writes what the open `EventStorage` holds to some place."""

    def write(self) -> None:
        """Write what is new since the last call."""
        raise NotImplementedError(f"{type(self).__name__} must define write().")

    def close(self) -> None:
        """Release files; nothing is written afterwards."""


class JSONWriter(EventWriter):
    """Appends scalars to a file of JSON lines, a line for each iteration that has new ones.

    Args:
        json_file: path; what it holds already is kept.
        window_size: iterations of the median.
    """

    def __init__(self, json_file: str | os.PathLike, window_size: int = 20):
        self._file = PathManager.open(os.fspath(json_file), "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        """Write what is new since the last call, and force it to disk."""
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                lines[iteration][name] = value
        if not lines:
            return
        self._last_write = max(lines)
        for iteration, scalars in lines.items():
            self._file.write(json.dumps({**scalars, "iteration": iteration}, sort_keys=True) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars, images and histograms as TensorBoard events.

    Args:
        log_dir: folder of the event file, which is made when there is something to write.
        window_size: iterations of the median.
        kwargs: further arguments of `torch.utils.tensorboard.SummaryWriter`.
    """

    def __init__(self, log_dir: str | os.PathLike, window_size: int = 20, **kwargs: Any):
        self._arguments = {"log_dir": os.fspath(log_dir), **kwargs}
        self._window_size = window_size
        self._last_write = -1

    @cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._arguments)

    def write(self) -> None:
        """Write what is new since the last call."""
        storage = get_event_storage()
        newest = self._last_write
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest
        for name, image, iteration in storage._vis_data:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self) -> None:
        """Flush and close the event file, if there is one."""
        writer = vars(self).pop("_writer", None)
        if writer is not None:
            writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs a line of progress: time left, losses, seconds an iteration, learning rate, peak GPU memory.

    Losses are the scalars with `loss` in their names; others are shown if `[metric]` is in their names, as in
    `storage.put_scalar("[metric]grad_norm", ...)`.

    Args:
        max_iter: last iteration + 1; without it no time left is shown.
        window_size: iterations of the losses' and metrics' median, and of the mean of `data_time`; `time` is the
            mean over all iterations.
    """

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None

    def write(self) -> None:
        """Log the line of the running iteration."""
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            # Training is over: what comes now (a last evaluation) is no progress.
            return
        fields = [f"iter: {storage.iter}"]
        eta = self._eta(storage)
        if eta:
            fields.insert(0, f"eta: {eta}")
        latest = storage.latest()
        losses = [name for name in latest if "loss" in name]
        metrics = [name for name in latest if "[metric]" in name and "loss" not in name]
        for name in losses + metrics:
            fields.append(f"{name}: {storage._smoothed(name, self._window_size):.4g}")
        if "time" in latest:
            fields.append(f"time: {storage.history('time').global_avg():.4f}  last_time: {latest['time'][0]:.4f}")
        if "data_time" in latest:
            seconds = storage.history("data_time").avg(storage.count_samples("data_time", self._window_size))
            fields.append(f"data_time: {seconds:.4f}  last_data_time: {latest['data_time'][0]:.4f}")
        rate = f"{latest['lr'][0]:.5g}" if "lr" in latest else "N/A"
        fields.append(f"lr: {rate}")
        if torch.cuda.is_available():
            fields.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info(" %s", "  ".join(fields))

    def _eta(self, storage: EventStorage) -> str | None:
        if self._max_iter is None:
            return None
        seconds_per_iter = self._seconds_per_iter(storage)
        if seconds_per_iter is None:
            return None
        seconds = seconds_per_iter * (self._max_iter - storage.iter - 1)
        storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        return str(datetime.timedelta(seconds=int(seconds)))

    def _seconds_per_iter(self, storage: EventStorage) -> float | None:
        if "time" in storage.latest():
            return float(storage.history("time").median(1000))
        now = (storage.iter, time.perf_counter())
        before, self._last_write = self._last_write, now
        if before is None or before[0] == now[0]:
            return None
        return (now[1] - before[1]) / (now[0] - before[0])
