"""Learning rate schedules: a fvcore schedule applied to an optimizer, with a warm-up where wanted."""

import logging
import math
from bisect import bisect_right
from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["LRMultiplier", "LRScheduler", "WarmupCosineLR", "WarmupMultiStepLR", "WarmupParamScheduler"]

logger = logging.getLogger(__name__)


class WarmupParamScheduler(CompositeParamScheduler):
    """Puts a warm-up before another schedule.

    Args:
        scheduler: the schedule that follows; its first part, as long as the warm-up, is skipped.
        warmup_factor: the warm-up starts at this times the schedule's first value.
        warmup_length: its share of the whole training, in [0, 1].
        warmup_method: "linear" rises to the schedule's value at the warm-up's end, "constant" stays.
        rescale_interval: squeeze the whole schedule into what follows the warm-up instead of skipping its
            beginning.

    Raises:
        ValueError: an unknown method.
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ):
        start = warmup_factor * scheduler(0.0)
        if warmup_method == "linear":
            warmup = LinearParamScheduler(start, scheduler(0.0 if rescale_interval else warmup_length))
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(start)
        else:
            raise ValueError(f'warmup_method={warmup_method!r}: expected "linear" or "constant".')
        super().__init__(
            [warmup, scheduler],
            lengths=[warmup_length, 1 - warmup_length],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
        )


class LRMultiplier(LRScheduler):
    """Sets each group's learning rate to its initial one times a schedule's value at this point of training.

    Args:
        optimizer: its groups' rates are the initial ones (with `last_iter`: their `initial_lr`).
        multiplier: fvcore schedule over [0, 1].
        max_iter: iterations of the whole training.
        last_iter: the iteration after which training goes on; -1: it begins.

    Raises:
        ValueError: `multiplier` is no ParamScheduler.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        multiplier: ParamScheduler,
        max_iter: int,
        last_iter: int = -1,
    ):
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(
                "LRMultiplier takes a fvcore.common.param_scheduler.ParamScheduler as multiplier, but got "
                f"{type(multiplier).__name__}."
            )
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def get_lr(self) -> list[float]:
        """Learning rates of the groups at the current iteration."""
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base_lr * factor for base_lr in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Initial rates and position. The schedule itself is not part of it."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}


class _WarmupLR(LRScheduler):
    """Rates of an older kind: the initial ones times a warm-up and a decay, both by iteration."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup_factor: float,
        warmup_iters: int,
        warmup_method: str,
        last_epoch: int,
    ):
        if warmup_method not in ("linear", "constant"):
            raise ValueError(f'warmup_method={warmup_method!r}: expected "linear" or "constant".')
        logger.warning("%s is deprecated; LRMultiplier with a schedule of fvcore does the same.", type(self).__name__)
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Learning rates of the groups at the current iteration."""
        factor = self._warmup() * self._decay()
        return [base_lr * factor for base_lr in self.base_lrs]

    def _warmup(self) -> float:
        if self.last_epoch >= self.warmup_iters:
            return 1.0
        done = self.last_epoch / self.warmup_iters if self.warmup_method == "linear" else 0.0
        return self.warmup_factor + (1.0 - self.warmup_factor) * done

    def _decay(self) -> float:
        raise NotImplementedError


class WarmupMultiStepLR(_WarmupLR):
    """Rates that fall by a factor at milestones, after a warm-up. Deprecated: see `LRMultiplier`.

    Args:
        optimizer: its groups' rates are the initial ones.
        milestones: iterations, increasing.
        gamma: the factor.
        warmup_factor: the warm-up starts at this times the initial rate.
        warmup_iters: its length in iterations.
        warmup_method: "linear" rises to the initial rate, "constant" stays.
        last_epoch: the iteration after which training goes on; -1: it begins.

    Raises:
        ValueError: milestones that do not increase, or an unknown method.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        milestones: list[int],
        gamma: float = 0.1,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ):
        if list(milestones) != sorted(milestones):
            raise ValueError(f"milestones={milestones!r}: iterations that increase are expected.")
        self.milestones = milestones
        self.gamma = gamma
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _decay(self) -> float:
        return self.gamma ** bisect_right(self.milestones, self.last_epoch)


class WarmupCosineLR(_WarmupLR):
    """Rates that fall to 0 along half a cosine, times a warm-up. Deprecated: see `LRMultiplier`.

    Args:
        optimizer: its groups' rates are the initial ones.
        max_iters: iterations of the whole training, the warm-up among them.
        warmup_factor, warmup_iters, warmup_method, last_epoch: as in `WarmupMultiStepLR`.

    Raises:
        ValueError: an unknown method.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_iters: int,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ):
        self.max_iters = max_iters
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _decay(self) -> float:
        return (1.0 + math.cos(math.pi * self.last_epoch / self.max_iters)) / 2
