"""Learning rate schedules: a fvcore schedule applied to an optimizer, with a warm-up where wanted."""

from typing import Any

import torch
from detectron2._subset import missing_names
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)

__all__ = ["LRMultiplier", "WarmupParamScheduler"]


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


class LRMultiplier(torch.optim.lr_scheduler.LRScheduler):
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


__getattr__ = missing_names(__name__, ["LRScheduler", "WarmupCosineLR", "WarmupMultiStepLR"])
