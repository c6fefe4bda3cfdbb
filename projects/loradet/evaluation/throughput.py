"""Throughput of inference, and the shares of data, forward pass and post-processing."""

import itertools
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from loradet.errors import UserError
from loradet.evaluation.process_memory import process_peak_mb

PARTS = ("data", "forward", "postprocessing")


@dataclass(frozen=True)
class Throughput:
    """Seconds of S measured batches.

    Attributes:
        seconds: by part, (S,) each: "data", waiting for the loader; "forward", from the call of the model to the end
            of its last layer, normalising, padding and copying to the device included; "postprocessing", the rest of
            the call: decoding, thresholds, NMS of the detections, resizing to the original image.
        images: in each batch.
        smallest, largest: (height, width) in pixels of the images as the loader gives them, by area.
        peak_memory_mb: MiB: on CUDA the most that the model and its work on the measured batches took, without what
            the process holds besides (an optimizer's state, say); else the most that the process ever held.
        device: as "cpu" or the name of the GPU.
    """

    seconds: Mapping[str, Sequence[float]]
    images: Sequence[int]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    peak_memory_mb: float
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: images a second, with waiting and without, medians and shares of the parts."""
        totals = {part: sum(values) for part, values in self.seconds.items()}
        whole, images = sum(totals.values()), sum(self.images)
        return {
            "images/s": images / whole,
            "images/s without data": images / (whole - totals["data"]),
            **{f"{part}_s": statistics.median(values) for part, values in self.seconds.items()},
            **{f"{part}_share": total / whole for part, total in totals.items()},
            "peak_memory_mb": self.peak_memory_mb,
            "steps": len(self.images),
            "batch": max(self.images),
            "smallest_image": list(self.smallest),
            "largest_image": list(self.largest),
            "device": self.device,
        }


def measure_inference(
    model: nn.Module, loader: Iterable[list[dict[str, Any]]], *, steps: int = 50, warmup: int = 5
) -> Throughput:
    """Run a detector over a loader as in evaluation, one batch after the other, and measure it.

    The device is waited for before and after each call. The model is in eval mode meanwhile.

    Args:
        model: takes Detectron2's list of dicts.
        loader: of batches; begun anew where it ends.
        steps: measured batches.
        warmup: batches before them, at least one, in which the last layer is found.

    Raises:
        ValueError: an empty loader, or numbers below 1.
    """
    if steps < 1 or warmup < 1:
        raise UserError(f"steps={steps}, warmup={warmup}: expected 1 or more of both.")
    device = next((tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())), None)
    clock = _Clock(model, device or torch.device("cpu"))
    seconds: dict[str, list[float]] = {part: [] for part in PARTS}
    counts, sizes = [], set()
    was_training = model.training
    model.eval()
    stream = _repeat(loader)
    try:
        with torch.inference_mode():
            last = _last_layer(model, stream, warmup)
            clock.reset_memory()
            hook = last.register_forward_hook(lambda *_: clock.mark()) if last is not None else None
            try:
                for _ in range(steps):
                    begin = time.perf_counter()
                    batch = next(stream)
                    seconds["data"].append(time.perf_counter() - begin)
                    forward, whole = clock.time(model, batch)
                    seconds["forward"].append(forward)
                    seconds["postprocessing"].append(whole - forward)
                    counts.append(len(batch))
                    sizes |= {tuple(int(side) for side in record["image"].shape[-2:]) for record in batch}
            finally:
                if hook is not None:
                    hook.remove()
    finally:
        model.train(was_training)
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    return Throughput(seconds, counts, by_area[0], by_area[-1], clock.peak_memory_mb(), clock.device_name())


class _Clock:
    """Times calls of a model; on CUDA by events, so that a layer's end is when the device reaches it."""

    def __init__(self, model: nn.Module, device: torch.device):
        self.device = device
        self._model = model
        self._others = 0
        self._cuda = device.type == "cuda"
        self._marked: Any = None

    def mark(self) -> None:
        """Note that a layer has ended; the last note counts."""
        self._marked = self._now()

    def time(self, model: nn.Module, batch: list[dict[str, Any]]) -> tuple[float, float]:
        """Seconds to the last mark (of the whole call where there is none), and of the whole call."""
        self._marked = None
        self._wait()
        begin, start = time.perf_counter(), self._now()
        model(batch)
        self._wait()
        whole = time.perf_counter() - begin
        if self._marked is None:
            return whole, whole
        forward = start.elapsed_time(self._marked) / 1000 if self._cuda else self._marked - start
        return min(forward, whole), whole

    def reset_memory(self) -> None:
        """Forget earlier peaks, and note what others hold, where the device can."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
            tensors = itertools.chain(self._model.parameters(), self._model.buffers())
            own = sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor.device == self.device)
            self._others = max(torch.cuda.memory_allocated(self.device) - own, 0)

    def peak_memory_mb(self) -> float:
        """MiB."""
        if self._cuda:
            return (torch.cuda.max_memory_allocated(self.device) - self._others) / 2**20
        return process_peak_mb()

    def device_name(self) -> str:
        """Name of the GPU, or the kind of device."""
        return torch.cuda.get_device_name(self.device) if self._cuda else self.device.type

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize(self.device)


def _repeat(loader: Iterable[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise UserError("The loader gives no batch to measure on.")


def _last_layer(model: nn.Module, stream: Iterator[list[dict[str, Any]]], batches: int) -> nn.Module | None:
    """The module with parameters of its own that ends last; found while the model warms up."""
    ended: list[nn.Module] = []

    def note(module: nn.Module, *_: Any) -> None:
        ended[:] = [module]

    layers = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        for _ in range(batches):
            model(next(stream))
    finally:
        for hook in hooks:
            hook.remove()
    return ended[0] if ended else None
