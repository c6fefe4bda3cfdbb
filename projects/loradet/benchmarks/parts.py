"""Measures the parts of a config's run: training step, inference and where its time goes, loader, evaluation."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from loradet.benchmarks.pairs import against_bare, against_config
from loradet.benchmarks.training_step import RandomImages, TrainingStep, training_loader
from loradet.benchmarks.turns import wait_for_device
from loradet.config.device import choose_device
from loradet.config.splits import evaluation_splits
from loradet.errors import UserError
from loradet.evaluation.split import Split
from loradet.evaluation.split_loop import dataset_metadata, load_dataset
from loradet.evaluation.throughput import measure_inference
from loradet.model import initial_model
from loradet.training.hooks.memory import peak_memory_mb
from loradet.training.plan import plan_batch
from loradet.training.prepare import build_loader


def benchmark(
    cfg: DictConfig,
    part: str,
    *,
    steps: int = 50,
    warmup: int = 5,
    bare: bool = False,
    against: DictConfig | None = None,
    images: RandomImages | None = None,
) -> dict[str, Any]:
    """Measure one part of what `cfg` describes, in this process.

    Args:
        part: "train", "infer", "throughput", "loader" or "eval".
        steps: measured steps (pairs of steps with `bare` or `against`); for "eval" one pass over the split is one step.
        warmup: steps before those; at least 1 for "throughput".
        bare: "train" only: also the same modules in a bare PyTorch loop, interleaved step by step.
        against: "train" only: also the step of this config, interleaved.
        images: "train" only: in place of the data set.

    Returns:
        seconds an iteration (median), images a second, peak memory in MiB where one side runs, and what the part has
        besides.

    Raises:
        ValueError: an unknown part, or an argument that it does not take.
    """
    torch.manual_seed(0)
    if part not in _PARTS:
        raise UserError(f"part={part!r}: expected one of {', '.join(_PARTS)}.")
    if part != "train":
        if bare or against is not None or images is not None:
            raise UserError("bare, against and images are for training steps only.")
        return _PARTS[part](cfg, steps, warmup)
    if bare and against is not None:
        raise UserError("bare and against: one at a time.")
    if bare:
        return against_bare(cfg, pairs=steps, warmup=warmup, images=images)
    if against is not None:
        return against_config(cfg, against, pairs=steps, warmup=warmup, images=images)
    return _train(cfg, steps, warmup, images)


def _measure(step: Callable[[], Any], steps: int, warmup: int) -> list[float]:
    seconds = []
    for number in range(warmup + steps):
        begin = time.perf_counter()
        step()
        wait_for_device()
        if number >= warmup:
            seconds.append(time.perf_counter() - begin)
    return seconds


def _result(seconds: list[float], images: float, **more: Any) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {
        "s/iter": median,
        "images/s": images / median if median else None,
        "peak_memory_mb": peak_memory_mb(),
        "steps": len(seconds),
        **more,
    }


def _train(cfg: DictConfig, steps: int, warmup: int, images: RandomImages | None = None) -> dict[str, Any]:
    step = TrainingStep(cfg, training_loader(cfg, images))
    with step.trainer.stream():
        seconds = _measure(step.run, steps, warmup)
    waits = [value for value, _ in step.trainer.storage.history("data_time").values()[warmup:]]
    return _result(seconds, step.images, data_wait_fraction=sum(waits) / sum(seconds))


def _model(cfg: DictConfig) -> nn.Module:
    load_dataset(cfg, "train")  # which registers the classes
    return initial_model(cfg, device=choose_device(cfg.train.device), metadata=dataset_metadata(cfg, "train"))


def _first_split(cfg: DictConfig) -> Split:
    return Split(cfg, evaluation_splits(cfg)[0])


def _infer(cfg: DictConfig, steps: int, warmup: int) -> dict[str, Any]:
    model: nn.Module = _model(cfg).eval()
    batches = list(itertools.islice(_first_split(cfg).loader, 32))
    stream = itertools.cycle(batches)
    with torch.inference_mode():
        seconds = _measure(lambda: model(next(stream)), steps, warmup)
    return _result(seconds, sum(map(len, batches)) / len(batches))


def _throughput(cfg: DictConfig, steps: int, warmup: int) -> dict[str, Any]:
    model: nn.Module = _model(cfg)
    loader = _first_split(cfg).loader
    return measure_inference(model, loader, steps=steps, warmup=warmup).to_dict()


def _loader(cfg: DictConfig, steps: int, warmup: int) -> dict[str, Any]:
    total = cfg.dataloader.train.total_batch_size
    stream = iter(build_loader(cfg, plan_batch(total, 1)))
    return _result(_measure(lambda: next(stream), steps, warmup), total)


def _eval(cfg: DictConfig, steps: int, warmup: int) -> dict[str, Any]:
    split = _first_split(cfg)
    model = _model(cfg)
    with tempfile.TemporaryDirectory() as folder:
        seconds = _measure(lambda: split.evaluate(model, Path(folder)), steps, warmup)
    return _result(seconds, len(split.records))


_PARTS = {"train": _train, "infer": _infer, "throughput": _throughput, "loader": _loader, "eval": _eval}
