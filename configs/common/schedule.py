"""Learning-rate schedules as fractions of the run, so that they hold in epochs and in iterations alike.

Warm-ups have so many `iterations`, but no more than `max_fraction` of the run: a longer one would end where the rate
has fallen already. `lr_multiplier.max_fraction = 1.0` takes a study's own warm-up as it was published.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler, LinearParamScheduler, MultiStepParamScheduler

from loradet.training.schedule import warmup

# The rate falls to a tenth after 8 and again after 11 of 12 epochs.
multistep_1x = L(warmup)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[8, 11], num_updates=12),
    iterations=500,
    factor=0.001,
    max_fraction=0.1,
    max_iter="${train.max_iter}",
)

# A tenth after 70 % of the run, a hundredth after 90 %.
multistep_70_90 = L(warmup)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[7, 9], num_updates=10),
    iterations=500,
    factor=0.001,
    max_fraction=0.1,
    max_iter="${train.max_iter}",
)

cosine = L(warmup)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01),
    iterations=100,
    factor=0.01,
    max_fraction=0.1,
    max_iter="${train.max_iter}",
)

# fvcore's own constant scheduler has no value at the end of the run, where the last step asks for one.
constant = L(LinearParamScheduler)(start_value=1.0, end_value=1.0)
