"""Parameter groups of optimizers and learning rate schedules."""

from detectron2._subset import missing_names
from detectron2.solver.build import get_default_optimizer_params
from detectron2.solver.lr_scheduler import (
    LRMultiplier,
    LRScheduler,
    WarmupCosineLR,
    WarmupMultiStepLR,
    WarmupParamScheduler,
)

__all__ = [
    "LRMultiplier",
    "LRScheduler",
    "WarmupCosineLR",
    "WarmupMultiStepLR",
    "WarmupParamScheduler",
    "get_default_optimizer_params",
]

__getattr__ = missing_names(
    __name__,
    [
        "build_lr_scheduler",
        "build_optimizer",
    ],
)
