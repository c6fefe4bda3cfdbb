"""Measures samples a second under each preset of augmentation against `basic`, in interleaved pairs."""

import copy
import statistics
import time
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from loradet.benchmarks.pixels import one_thread
from loradet.benchmarks.turns import interleave, ratio_figures
from loradet.config.augment import choose_augmentations, presets
from loradet.config.build import build
from loradet.datasets.loader import FailedSample, SampleError, TrainLoader
from loradet.errors import UserError


def benchmark_augment(cfg: DictConfig, names: Sequence[str] = (), *, pairs: int = 200) -> dict[str, dict[str, Any]]:
    """Time one data process, of one thread, on the first samples of a run.

    Args:
        cfg: with `dataloader.train`.
        names: presets; none: all but `basic`.
        pairs: measured pairs of samples.

    Returns:
        By preset: samples a CPU second of it and of `basic`, their seconds and pixels over those of `basic` (a training
        step pays for pixels), and the median of the pairs' ratios of seconds with its quartiles. A mosaic is one sample
        of two: its pairs are of two kinds.

    Raises:
        UserError: no such preset, a loader of another kind, or an image that cannot be read.
    """
    basic = _loader(cfg, "basic")
    keys = [key for batch, _ in zip(basic.stream, range(pairs)) for key in batch][:pairs]
    found = {}
    with one_thread():
        for name in names or [one for one in presets() if one != "basic"]:
            sides = [_Side(_loader(cfg, name)), _Side(basic)]
            seconds, basic_seconds = interleave(*sides, keys, pairs=pairs, warmup=5, clock=time.process_time)
            found[name] = {
                "samples_per_s": 1 / statistics.mean(seconds),
                "basic_samples_per_s": 1 / statistics.mean(basic_seconds),
                "seconds_over_basic": sum(seconds) / sum(basic_seconds),
                "pixels_over_basic": sides[0].pixels / sides[1].pixels,
                **ratio_figures(seconds, basic_seconds),
            }
    return found


class _Side:
    """Maps samples, and counts their pixels."""

    def __init__(self, loader: TrainLoader) -> None:
        self.dataset = loader.dataset
        self.pixels = 0

    def __call__(self, key: tuple[int, int]) -> None:
        sample = self.dataset[key]
        if isinstance(sample, FailedSample):
            raise SampleError(sample.message)
        self.pixels += sample["image"].shape[1] * sample["image"].shape[2]


def _loader(cfg: DictConfig, name: str) -> TrainLoader:
    cfg = copy.deepcopy(cfg)
    cfg.data.augment = name
    choose_augmentations(cfg, asked=True)
    loader = build(cfg.dataloader.train, "dataloader.train")
    if not isinstance(loader, TrainLoader):
        raise UserError(f"dataloader.train is a {type(loader).__name__}: expected one of build_train_loader.")
    return loader
