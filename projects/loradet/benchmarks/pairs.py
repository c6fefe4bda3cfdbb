"""Training steps in interleaved pairs: a config against a bare loop, or against another config."""

import statistics
from typing import Any

import torch
from omegaconf import DictConfig

from loradet.backbones.precision import amp_dtype
from loradet.benchmarks.training_step import RandomImages, TrainingStep, batch_plan, training_loader
from loradet.benchmarks.turns import interleave, ratio_figures
from loradet.config.device import choose_device
from loradet.errors import UserError

_PREPARED = 8


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

    Raises:
        ValueError: the config computes in fp16.
    """
    amp = cfg.train.amp
    if amp.enabled and amp_dtype(amp.dtype, choose_device(cfg.train.device)) is torch.float16:
        raise UserError(
            f"train.amp.dtype={amp.dtype} is fp16 here, which needs a gradient scaler, and the plain loop has none: "
            "compare it with train.amp.dtype=bf16, or with train.amp.enabled=False."
        )
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
        raise UserError(
            f"dataloader.train.total_batch_size is {totals[0]} in the one config and {totals[1]} in the other: steps "
            "on the same images need one number."
        )
    ours = TrainingStep(cfg, training_loader(cfg, images))
    theirs = TrainingStep(other, loader=())  # it is given the images of the first
    classes = [getattr(step.trainer.module, "num_classes", None) for step in (ours, theirs)]
    if None not in classes and classes[0] != classes[1]:
        raise UserError(f"The models have {classes[0]} and {classes[1]} classes: the same images need one number.")
    seconds = interleave(ours.run_on, theirs.run_on, ours.prepare(_PREPARED), pairs=pairs, warmup=warmup)
    return _figures(*seconds, ours.images, "against")


def _figures(ours: list[float], theirs: list[float], images: int, name: str) -> dict[str, Any]:
    median = statistics.median(ours)
    return {
        "s/iter": median,
        "images/s": images / median,
        f"{name}_s_per_iter": statistics.median(theirs),
        **ratio_figures(ours, theirs),
    }
