"""Learning-rate schedules whose warm-up is given in iterations."""

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import ParamScheduler


def warmup(scheduler: ParamScheduler, iterations: int, factor: float, max_iter: int) -> ParamScheduler:
    """`scheduler` with a linear warm-up in front.

    Args:
        scheduler: multiplier of the base rate over the run, as a function of the fraction done.
        iterations: length of the warm-up, cut to the run less its last iteration.
        factor: multiplier at iteration 0, as a fraction of the scheduler's own first value.
        max_iter: length of the run.
    """
    # fvcore's schedulers are defined below 1 only, and the warm-up ends on the scheduler's value there. A run may have
    # no iteration at all.
    length = max(0, min(iterations, max_iter - 1)) / max(1, max_iter)
    return WarmupParamScheduler(scheduler, warmup_factor=factor, warmup_length=length, warmup_method="linear")
