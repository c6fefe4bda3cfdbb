"""Multi-step schedules in units of "1x": 90000 steps of 16 images, about 12 epochs of COCO."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler


def default_X_scheduler(num_X):  # noqa: N802, N803
    """Factor of the learning rate over `num_X` * 90000 steps: 1000 of warmup; two falls, to a tenth each.

    Up to 2x the falls lie at 2/3 and 8/9 of the whole. Longer trainings have them 60000 and 20000 steps before the end
    (https://arxiv.org/abs/1811.08883, section 4).
    """
    steps = num_X * 90000
    milestones = [60000, 80000, 90000] if num_X <= 2 else [steps - 60000, steps - 20000, steps]
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=milestones),
        warmup_factor=0.001,
        warmup_length=1000 / steps,
        warmup_method="linear",
    )


lr_multiplier_1x = default_X_scheduler(1)
lr_multiplier_2x = default_X_scheduler(2)
lr_multiplier_3x = default_X_scheduler(3)
lr_multiplier_6x = default_X_scheduler(6)
lr_multiplier_9x = default_X_scheduler(9)
