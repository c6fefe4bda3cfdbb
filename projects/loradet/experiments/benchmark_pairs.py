"""Training steps in interleaved pairs: a config against a bare loop, or against another config."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from omegaconf import DictConfig

from .benchmark_training import Batch, RandomImages, TrainingStep, batch_plan, training_loader

PAIRS_WANTED = 50
_PREPARED = 8

Step = Callable[[Batch], None]


def against_bare(
    cfg: DictConfig, *, pairs: int = 50, warmup: int = 5, images: RandomImages | None = None
) -> dict[str, Any]:
    """A config's training step against a plain PyTorch loop over the same modules and optimizer.

    Args:
        cfg: complete.
        pairs: measured pairs of steps.
        warmup: pairs before those.
        images: in place of the config's own.

    Returns:
        as of `against_config`, the plain loop's seconds as `bare_s_per_iter`.
    """
    step = TrainingStep(cfg, training_loader(cfg, images))
    seconds = interleave(step.run_on, step.run_bare, step.prepare(_PREPARED), pairs=pairs, warmup=warmup)
    return _figures(*seconds, step.images, "bare")


def against_config(
    cfg: DictConfig, other: DictConfig, *, pairs: int = 50, warmup: int = 5, images: RandomImages | None = None
) -> dict[str, Any]:
    """The training steps of two configs, each with a model of its own, on the same images in the same process.

    Args:
        cfg, other: complete, with the same number of images a step.
        pairs, warmup: as of `against_bare`.
        images: in place of those that `cfg` loads.

    Returns:
        median seconds of both (`s/iter`, `against_s_per_iter`), `median_ratio` (the median over pairs of seconds of
        `cfg` over seconds of `other`) and its quartiles, and the number of pairs.

    Raises:
        ValueError: the configs differ in images a step, or in classes.
    """
    totals = [batch_plan(c).total for c in (cfg, other)]
    if totals[0] != totals[1]:
        raise ValueError(
            f"dataloader.train.total_batch_size is {totals[0]} in the one config and {totals[1]} in the other: steps "
            "on the same images need one number."
        )
    ours = TrainingStep(cfg, training_loader(cfg, images))
    theirs = TrainingStep(other, loader=())  # it is given the images of the first
    classes = [getattr(step.trainer.module, "num_classes", None) for step in (ours, theirs)]
    if None not in classes and classes[0] != classes[1]:
        raise ValueError(f"The models have {classes[0]} and {classes[1]} classes: the same images need one number.")
    seconds = interleave(ours.run_on, theirs.run_on, ours.prepare(_PREPARED), pairs=pairs, warmup=warmup)
    return _figures(*seconds, ours.images, "against")


def interleave(
    ours: Step, theirs: Step, steps: Sequence[Batch], *, pairs: int, warmup: int
) -> tuple[list[float], list[float]]:
    """Seconds of two steps that take turns on the same images; which goes first alternates.

    Args:
        ours, theirs: run a step on the images given to them.
        steps: images of each step, taken in turn.
        pairs: measured pairs.
        warmup: pairs before those.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(warmup + pairs):
        for side in (0, 1) if number % 2 else (1, 0):
            begin = time.perf_counter()
            (ours, theirs)[side](steps[number % len(steps)])
            wait_for_device()
            if number >= warmup:
                seconds[side].append(time.perf_counter() - begin)
    return seconds


def wait_for_device() -> None:
    """Let CUDA finish what was started."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _figures(ours: list[float], theirs: list[float], images: int, name: str) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(ours, theirs)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    median = statistics.median(ours)
    return {
        "s/iter": median,
        "images/s": images / median,
        f"{name}_s_per_iter": statistics.median(theirs),
        "median_ratio": statistics.median(ratios),
        "ratio_lower_quartile": low,
        "ratio_upper_quartile": high,
        "pairs": len(ratios),
        "enough_pairs": len(ratios) >= PAIRS_WANTED,
        "threads": torch.get_num_threads(),
    }
