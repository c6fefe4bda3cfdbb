"""Parameter groups of optimizers and learning rate schedules."""

from detectron2._subset import missing_names
from detectron2.solver.build import get_default_optimizer_params
from detectron2.solver.lr_scheduler import LRMultiplier, WarmupParamScheduler

__all__ = ["LRMultiplier", "WarmupParamScheduler", "get_default_optimizer_params"]

__getattr__ = missing_names(
    __name__,
    [
        "GradientClipType",
        "LRScheduler",
        "WarmupCosineLR",
        "WarmupMultiStepLR",
        "build_lr_scheduler",
        "build_optimizer",
        "maybe_add_gradient_clipping",
    ],
)
