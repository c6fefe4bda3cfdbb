"""Learning-rate schedules whose warm-up is given in iterations, and what rate a schedule comes to."""

import logging
from collections.abc import Callable

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import ParamScheduler

from loradet.errors import UserError

logger = logging.getLogger(__name__)

_PLACES = 10_000  # of a run that are looked at for its highest rate


def warmup(
    scheduler: ParamScheduler, iterations: int, factor: float, max_iter: int, max_fraction: float = 1.0
) -> ParamScheduler:
    """`scheduler` with a linear warm-up in front.

    Args:
        scheduler: multiplier of the base rate over the run, as a function of the fraction done.
        iterations: length of the warm-up, cut to `max_fraction` of the run, and to the run less its last iteration.
        factor: multiplier at iteration 0, as a fraction of the scheduler's own first value.
        max_iter: length of the run.
        max_fraction: of the run that the warm-up takes at most.

    Raises:
        UserError: `max_fraction` is no fraction; `iterations` or `factor` is negative.
    """
    if iterations < 0:
        raise UserError(f"lr_multiplier.iterations={iterations}: expected a length of at least 0.")
    if not factor >= 0.0:
        raise UserError(f"lr_multiplier.factor={factor}: expected a multiplier of at least 0.")
    if not 0.0 <= max_fraction <= 1.0:
        raise UserError(f"lr_multiplier.max_fraction={max_fraction}: expected a fraction of the run, from 0 to 1.")
    # fvcore's schedulers are defined below 1 only, and the warm-up ends on the scheduler's value there. A run may have
    # no iteration at all.
    limit = min(max_iter - 1, int(max_fraction * max_iter + 1e-9))
    length = max(0, min(iterations, limit)) / max(1, max_iter)
    return WarmupParamScheduler(scheduler, warmup_factor=factor, warmup_length=length, warmup_method="linear")


def peak(multiplier: Callable[[float], float], max_iter: int) -> tuple[float, int]:
    """The highest value of a schedule over a run of at least one iteration, and the iteration that has it first.

    Of long runs every so many iterations are looked at.
    """
    step = max(1, max_iter // _PLACES)
    return max(((multiplier(i / max_iter), i) for i in range(0, max_iter, step)), key=lambda one: (one[0], -one[1]))


def report_peak(multiplier: Callable[[float], float], max_iter: int, rate: float | None) -> None:
    """Log the highest learning rate of a run; a warning where it is under half of what was asked for.

    Args:
        multiplier: of the rate, as a function of the fraction done.
        max_iter: length of the run; nothing is said of a run without an iteration.
        rate: that was asked for (`optimizer.lr`); None where the optimizer has none of that name.
    """
    if not max_iter or rate is None:
        return
    value, iteration = peak(multiplier, max_iter)
    if value < 0.5:
        logger.warning(
            "The learning rate peaks at %.3g (iteration %d of %d), under half of optimizer.lr=%.3g: shorten the "
            "warm-up (lr_multiplier.iterations, lr_multiplier.max_fraction) or lengthen the run (train.max_iter).",
            value * rate,
            iteration,
            max_iter,
            rate,
        )
    else:
        logger.info("The learning rate peaks at %.3g (iteration %d of %d).", value * rate, iteration, max_iter)
