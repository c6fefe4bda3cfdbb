"""Measures the parts of a config's run: training step, inference and where its time goes, loader, evaluation."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import nn

from loradet.evaluation.splits import evaluate_split, evaluation_splits, split_config
from loradet.evaluation.throughput import measure_inference
from loradet.training.hooks import peak_memory_mb
from loradet.training.run import build_loader, build_model, build_trainer
from loradet.training.settings import plan_batch
from loradet.training.setup import choose_device
from loradet.training.trainer import Trainer

PAIRS_WANTED = 50


def benchmark(cfg: DictConfig, part: str, *, steps: int = 50, warmup: int = 5, bare: bool = False) -> dict[str, Any]:
    """Measure one part of what `cfg` describes, in this process.

    Args:
        part: "train", "infer", "throughput", "loader" or "eval".
        steps: measured steps (pairs of steps with `bare`); for "eval" one pass over the split is one step.
        warmup: steps before those; at least 1 for "throughput".
        bare: "train" only: also the same modules in a bare PyTorch loop, interleaved step by step.

    Returns:
        seconds an iteration (median), images a second, peak memory in MiB, and what the part has besides.
    """
    torch.manual_seed(0)
    if part not in _PARTS:
        raise ValueError(f"part={part!r}: expected one of {', '.join(_PARTS)}.")
    if bare and part != "train":
        raise ValueError("bare compares training steps only.")
    if part == "train" and bare:
        return _train_against_bare(cfg, steps, warmup)
    return _PARTS[part](cfg, steps, warmup)


def _trainer(cfg: DictConfig) -> tuple[Trainer, int]:
    plan = plan_batch(cfg.dataloader.train.total_batch_size, 1, cfg.train.accumulate, cfg.train.max_batch_per_gpu)
    loader = build_loader(cfg, plan)
    model = build_model(cfg, choose_device(cfg.train.device))
    folder = Path(tempfile.gettempdir())
    return build_trainer(cfg, model, loader, plan, folder), plan.total


def _measure(step: Callable[[], Any], steps: int, warmup: int) -> list[float]:
    seconds = []
    for number in range(warmup + steps):
        begin = time.perf_counter()
        step()
        _wait_for_device()
        if number >= warmup:
            seconds.append(time.perf_counter() - begin)
    return seconds


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _result(seconds: list[float], images: float, **more: Any) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {
        "s/iter": median,
        "images/s": images / median if median else None,
        "peak_memory_mb": peak_memory_mb(),
        "steps": len(seconds),
        **more,
    }


def _train(cfg: DictConfig, steps: int, warmup: int) -> dict[str, Any]:
    trainer, images = _trainer(cfg)
    with EventStorage() as trainer.storage, trainer.stream():
        seconds = _measure(lambda: _step(trainer), steps, warmup)
        waits = [value for value, _ in trainer.storage.history("data_time").values()[warmup:]]
    return _result(seconds, images, data_wait_fraction=sum(waits) / sum(seconds))


def _step(trainer: Trainer) -> None:
    trainer.run_step()
    trainer.storage.step()
    trainer.iter += 1


def _train_against_bare(cfg: DictConfig, steps: int, warmup: int) -> dict[str, Any]:
    """Both sides see the same prepared batches, so that only the steps differ; which goes first alternates."""
    trainer, images = _trainer(cfg)
    with trainer.stream() as stream:
        batches = list(itertools.islice(stream, 8 * trainer.accumulate))
    ours: list[float] = []
    theirs: list[float] = []
    with EventStorage() as trainer.storage:
        for number in range(warmup + steps):
            first = number % len(batches)
            micro_batches = [batches[(first + i) % len(batches)] for i in range(trainer.accumulate)]
            sides = [(ours, lambda b: _step_on(trainer, b)), (theirs, lambda b: _bare_step(trainer, b))]
            for seconds, step in sides if number % 2 else reversed(sides):
                (elapsed,) = _measure(lambda step=step, b=micro_batches: step(b), 1, 0)
                if number >= warmup:
                    seconds.append(elapsed)
    ratios = [a / b for a, b in zip(ours, theirs)]
    return _result(
        ours,
        images,
        bare_s_per_iter=statistics.median(theirs),
        median_ratio=statistics.median(ratios),
        pairs=len(ratios),
        enough_pairs=len(ratios) >= PAIRS_WANTED,
    )


def _step_on(trainer: Trainer, micro_batches: list[list[dict]]) -> None:
    with trainer.stream(micro_batches):
        _step(trainer)


def _bare_step(trainer: Trainer, micro_batches: list[list[dict]]) -> None:
    trainer.optimizer.zero_grad(set_to_none=True)
    for batch in micro_batches:
        (sum(trainer.model(batch).values()) / len(micro_batches)).backward()
    trainer.optimizer.step()


def _infer(cfg: DictConfig, steps: int, warmup: int) -> dict[str, Any]:
    instantiate(cfg.dataloader.train.dataset)
    model: nn.Module = build_model(cfg, choose_device(cfg.train.device)).eval()
    batches = list(itertools.islice(instantiate(split_config(cfg, evaluation_splits(cfg)[0])), 32))
    stream = itertools.cycle(batches)
    with torch.inference_mode():
        seconds = _measure(lambda: model(next(stream)), steps, warmup)
    return _result(seconds, sum(map(len, batches)) / len(batches))


def _throughput(cfg: DictConfig, steps: int, warmup: int) -> dict[str, Any]:
    instantiate(cfg.dataloader.train.dataset)
    model: nn.Module = build_model(cfg, choose_device(cfg.train.device))
    loader = instantiate(split_config(cfg, evaluation_splits(cfg)[0]))
    return measure_inference(model, loader, steps=steps, warmup=warmup).to_dict()


def _loader(cfg: DictConfig, steps: int, warmup: int) -> dict[str, Any]:
    total = cfg.dataloader.train.total_batch_size
    stream = iter(build_loader(cfg, plan_batch(total, 1)))
    return _result(_measure(lambda: next(stream), steps, warmup), total)


def _eval(cfg: DictConfig, steps: int, warmup: int) -> dict[str, Any]:
    split = evaluation_splits(cfg)[0]
    instantiate(cfg.dataloader.train.dataset)
    model = build_model(cfg, choose_device(cfg.train.device))
    images = len(instantiate(split_config(cfg, split).dataset))
    with tempfile.TemporaryDirectory() as folder:
        seconds = _measure(lambda: evaluate_split(cfg, model, split, Path(folder)), steps, warmup)
    return _result(seconds, images)


_PARTS = {"train": _train, "infer": _infer, "throughput": _throughput, "loader": _loader, "eval": _eval}
